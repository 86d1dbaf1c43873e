"""A vector for every open task, made once for each text."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.asset import Output, Work, asset
from assets.checks import changed_users_under, same_rows_as, unit_vectors
from assets.definitions.vectors import to_lists, vectors_by_text
from contexts.embed import Embedder

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("text_hash", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float16()), nullable=False),  # unit length
    ]
)


@asset(
    step="embed_tasks",
    schema=SCHEMA,
    code_version="1",
    opaque=("embedding",),
    work=Work("texts_embedded", per="row"),
    checks=(
        same_rows_as("todoist_tasks", where="task_id"),
        unit_vectors("embedding"),
        changed_users_under(0.95),  # that so many reword their tasks at once is a fault at the source
    ),
)
def task_embeddings(
    todoist_tasks: Annotated[pa.Table, "user_id", "task_id", "text", "text_hash"],
    previous: pa.Table,
    embedder: Embedder,
) -> Output:
    """One row per task. A text that the shard has a vector for, by this very model, is not embedded again."""
    tasks = todoist_tasks.filter(pc.is_valid(todoist_tasks["task_id"]))
    asked = previous.filter(pc.is_in(previous["text_hash"], pc.unique(tasks["text_hash"])))
    known = vectors_by_text(asked, embedder.version)
    missing = {
        row["text_hash"]: row["text"]
        for row in tasks.select(["text_hash", "text"]).to_pylist()
        if row["text_hash"] not in known
    }
    vectors = embedder.encode(list(missing.values())).astype(np.float16)
    known |= dict(zip(missing, vectors, strict=True))
    rows = [known[each] for each in tasks["text_hash"].to_pylist()]
    table = pa.table(
        [
            tasks["user_id"],
            tasks["task_id"],
            tasks["text_hash"],
            pa.array([embedder.version] * len(tasks), pa.string()),
            to_lists(rows, embedder.dim),
        ],
        schema=SCHEMA,
    )
    return Output(table, counts={"texts_embedded": len(missing)})
