"""Writes, checks and scores candidates for tips, and sanitizes the texts of their prompt."""
