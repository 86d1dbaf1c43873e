"""Sample Todoist accounts: whole `/sync` answers and what changes overnight, the same for the same seed.

The task texts are this project's own and stand in `tasks.toml`.
"""

from local.samples.nights import changed_users, night_changes
from local.samples.texts import sample_texts
from local.samples.users import SampleUser, sample_users

__all__ = ["SampleUser", "changed_users", "night_changes", "sample_texts", "sample_users"]
