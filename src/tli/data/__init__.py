"""Inputs: word pairs, the micro-world, benchmark items, and files from the network."""
