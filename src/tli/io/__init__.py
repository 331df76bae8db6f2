"""Files and the terminal: atomic writes, rows, receipts, resuming, progress, errors."""
