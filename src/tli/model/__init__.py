"""Models: checkpoints, quantisation, LoRA, and running a model to get hidden states."""
