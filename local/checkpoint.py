"""Nomic models with random weights, saved as on the Hugging Face hub: a tiny one and one of full size."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

__all__ = ["HIDDEN", "save_full_nomic", "save_tiny_nomic", "with_auto_map"]

HIDDEN = 64
"""Vector length of the tiny model."""

_TINY = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_MAX_TOKENS = 2048
_TINY_STD = 0.3
"""Standard deviation of the tiny model's weights; with the usual 0.02 all texts have a cosine of 0.98."""
_FULL_STD = 0.02

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# The characters left after lower-casing and removing accents, beside Latin: Greek, Cyrillic, Hebrew, Arabic, kana.
_SCRIPTS = ((0x3B1, 0x3C9), (0x430, 0x45F), (0x5D0, 0x5EA), (0x620, 0x64A), (0x3041, 0x3096), (0x30A1, 0x30FC))
_MODULE_PACKAGE = "sentence_transformers.models"
_REMOTE_CODE = "nomic-ai/nomic-bert-2048"


def save_tiny_nomic(folder: Path, *, seed: int = 0) -> Path:
    """Save the tiny model (0.5 MB, vectors of 64 values, the same for the same seed) and return the folder.

    `SentenceTransformer(str(folder))` loads it without the hub and without remote code.
    """
    vocabulary = _vocabulary()
    return _save(folder, vocabulary, seed, _TINY_STD, _TINY | {"vocab_size": len(vocabulary)})


def save_full_nomic(folder: Path, vocabulary: dict[str, int], *, seed: int = 0) -> Path:
    """Save a model of the size of nomic-embed-text-v1.5 and return the folder; for measuring throughput.

    It has 137 M weights (550 MB) and vectors of 768 values.

    vocabulary: BERT's 30,522 tokens with their numbers.
    """
    return _save(folder, vocabulary, seed, _FULL_STD, {})


def _save(folder: Path, vocabulary: dict[str, int], seed: int, std: float, shape: dict[str, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    vector_length = _save_weights(folder, seed, std, shape)
    _save_tokenizer(folder, vocabulary)
    _write(folder / "modules.json", [_module(0, "Transformer", ""), _module(1, "Pooling", "1_Pooling")])
    _write(folder / "1_Pooling" / "config.json", _POOLING | {"word_embedding_dimension": vector_length})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": _MAX_TOKENS, "do_lower_case": False})
    _write(folder / "config_sentence_transformers.json", {"__version__": {"sentence_transformers": "2.4.0"}})
    return folder


def with_auto_map(folder: Path) -> None:
    """Add remote code pointers and old key names to the folder's config.json, as in older configs on the hub."""
    path = folder / "config.json"
    _write(path, json.loads(path.read_text()) | _OLD_CONFIG)


_POOLING: dict[str, Any] = {
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}

_OLD_CONFIG: dict[str, Any] = {
    "auto_map": {
        "AutoConfig": f"{_REMOTE_CODE}--configuration_hf_nomic_bert.NomicBertConfig",
        "AutoModel": f"{_REMOTE_CODE}--modeling_hf_nomic_bert.NomicBertModel",
        "AutoModelForMaskedLM": f"{_REMOTE_CODE}--modeling_hf_nomic_bert.NomicBertForPreTraining",
    },
    "activation_function": "swiglu",
    "causal": False,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": _MAX_TOKENS,
    "n_embd": HIDDEN,
    "n_head": _TINY["num_attention_heads"],
    "n_inner": _TINY["intermediate_size"],
    "n_layer": _TINY["num_hidden_layers"],
    "n_positions": 4 * _MAX_TOKENS,
    "prenorm": False,
    "qkv_proj_bias": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "torch_dtype": "float32",
    "use_flash_attn": True,
}


def _save_weights(folder: Path, seed: int, std: float, shape: dict[str, Any]) -> int:
    """Save random weights; returns the vector length."""
    import torch
    from transformers import NomicBertConfig, NomicBertModel

    config = NomicBertConfig(**shape, max_position_embeddings=_MAX_TOKENS, initializer_range=std)
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(seed)
        model = NomicBertModel(config)
        for norm in (weights for weights in model.parameters() if weights.dim() == 1):
            # Untrained layer norms produce rows of mean zero; those of a trained model do not.
            norm.add_(std * torch.randn_like(norm))
        model.save_pretrained(folder)
    return int(config.hidden_size)


def _save_tokenizer(folder: Path, vocabulary: dict[str, int]) -> None:
    from transformers import BertTokenizer

    BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=_MAX_TOKENS).save_pretrained(folder)


def _vocabulary() -> dict[str, int]:
    """Tokens of one character: words of the covered scripts split into them, others are unknown."""
    letters = string.ascii_lowercase + string.digits
    letters += "".join(chr(code) for first, last in _SCRIPTS for code in range(first, last + 1))
    tokens = [*_SPECIAL_TOKENS, *string.punctuation, *letters, *(f"##{letter}" for letter in letters)]
    return {token: number for number, token in enumerate(tokens)}


def _module(number: int, kind: str, path: str) -> dict[str, Any]:
    return {"idx": number, "name": str(number), "path": path, "type": f"{_MODULE_PACKAGE}.{kind}"}


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
