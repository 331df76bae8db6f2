"""The word pairs: reading, checks, audits."""
