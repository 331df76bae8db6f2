"""Commands for people: file checks, audits, exports, plans, costs and the summary. No stage uses them."""
