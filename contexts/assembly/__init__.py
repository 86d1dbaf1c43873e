"""Contexts: the domain model, the assembler, differences and explanations, the history and the store."""
