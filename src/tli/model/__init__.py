"""The model: checkpoint, 4-bit weights, adapters."""
