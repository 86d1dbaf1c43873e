"""Sample Todoist accounts as full `/sync` answers, and their changes per night; the same for the same seed.

The task texts in `tasks.toml` were written for this project.
"""

from local.samples.nights import changed_users, night_changes
from local.samples.texts import sample_texts
from local.samples.users import SampleUser, plain_users, sample_users

__all__ = ["SampleUser", "changed_users", "night_changes", "plain_users", "sample_texts", "sample_users"]
