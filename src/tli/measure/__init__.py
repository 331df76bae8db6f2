"""Measures of a model: views, embeddings, similarities, scores."""
