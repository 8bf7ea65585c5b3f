"""The doors: frames in, bytes out.  Each is thin, and knows no chat."""
