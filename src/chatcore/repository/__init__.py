"""Where the log and the accounts are kept."""
