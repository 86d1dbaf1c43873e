"""Postgres: connections and named statements, locks, migrations, the log of pipeline runs."""
