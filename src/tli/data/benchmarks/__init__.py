"""Benchmark items, released or generated: reading, prompts, and baselines without a model."""
