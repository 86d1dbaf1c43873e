"""Analysis of stored data: DuckDB sessions over all views, an interactive prompt, a map of a user's tasks."""
