"""chat-serve: the doors, on one chat, in one process."""
