"""The micro-world: a vocabulary, a grammar, and a generator of a corpus and benchmark items."""
