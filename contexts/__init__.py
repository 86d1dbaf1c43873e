"""Contexts of users: Todoist signals, themes, the assembly of contexts and their store in Postgres."""
