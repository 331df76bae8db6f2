"""Word pairs: reading, checks and audits."""
