"""Statistics over plain arrays: numbers in, numbers out. Nothing here reads a file or knows a table."""
