"""What is measured on a model: views, word embeddings, similarity measures and benchmark scores."""
