"""Room four: rows become tables, figures and verdicts; nothing here imports torch."""
