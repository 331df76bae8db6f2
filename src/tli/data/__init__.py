"""What goes in: word pairs, the micro-world, benchmark items, fetched files."""
