"""Benchmark items: released ones or our own, as prompts, with baselines."""
