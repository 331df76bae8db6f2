"""Training of adapters: the objective and the training loop."""
