"""Room three: the measurements and the training."""
