"""Themes of a user's tasks: embeddings, clusters, duplicates and names."""
