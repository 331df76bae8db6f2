"""Training adapters: the objective and the loop."""
