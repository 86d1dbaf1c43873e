"""The seven assets of the pipeline, in reading order."""

from assets.definitions.context_store import context_store
from assets.definitions.task_clusters import task_clusters
from assets.definitions.task_embeddings import task_embeddings
from assets.definitions.tip_candidates import tip_candidates
from assets.definitions.tip_reactions import tip_reactions
from assets.definitions.todoist_tasks import todoist_tasks
from assets.definitions.user_contexts import user_contexts
from assets.engine.graph import Graph

GRAPH = Graph.from_assets(
    [todoist_tasks, tip_reactions, task_embeddings, task_clusters, user_contexts, context_store, tip_candidates]
)

__all__ = [
    "GRAPH",
    "context_store",
    "task_clusters",
    "task_embeddings",
    "tip_candidates",
    "tip_reactions",
    "todoist_tasks",
    "user_contexts",
]
