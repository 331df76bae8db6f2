"""Commands for people: checks of files, audits, exports, plans, costs, the summary."""
