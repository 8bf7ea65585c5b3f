"""chat-cli: the chat in a terminal."""
