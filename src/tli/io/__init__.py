"""Files: atomic writes, rows, receipts, resume, progress, errors."""
