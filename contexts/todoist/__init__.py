"""Todoist: the API client, users' accounts and the mirrors of their tasks."""
