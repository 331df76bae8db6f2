"""The micro-world: a vocabulary, a grammar and a generator of texts and items."""
