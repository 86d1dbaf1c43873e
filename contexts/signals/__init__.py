"""The place for sources of signals other than Todoist. None exists yet."""
