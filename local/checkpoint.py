"""Nomic models with random weights, on disk as the hub has the real one: a tiny one for tests, one of full size."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

__all__ = ["HIDDEN", "save_full_nomic", "save_tiny_nomic", "with_auto_map"]

HIDDEN = 64
_TINY = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_POSITIONS = 2048
_SPREAD = 0.3
"""Standard deviation of the tiny weights; with the usual 0.02 all texts are alike (cosine 0.98)."""

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Lower case without accents, as the tokenizer leaves them: Latin, Greek, Cyrillic, Hebrew, Arabic, kana.
_SCRIPTS = ((0x3B1, 0x3C9), (0x430, 0x45F), (0x5D0, 0x5EA), (0x620, 0x64A), (0x3041, 0x3096), (0x30A1, 0x30FC))
_MODULES = "sentence_transformers.models"
_CODE = "nomic-ai/nomic-bert-2048"


def save_tiny_nomic(folder: Path, *, seed: int = 0) -> Path:
    """Write the model into `folder` and give the folder back; 64 values a vector, 0.5 MB, equal for equal seeds.

    What `SentenceTransformer(str(folder))` needs is there: no hub and no remote code.
    """
    vocabulary = _vocabulary()
    return _save(folder, vocabulary, seed, _SPREAD, _TINY | {"vocab_size": len(vocabulary)})


def save_full_nomic(folder: Path, vocabulary: dict[str, int], *, seed: int = 0) -> Path:
    """The same in the size of nomic-embed-text-v1.5 (137 M weights, 550 MB, 768 values a vector): for its pace.

    vocabulary: of BERT's, 30,522 tokens, as the real one has it.
    """
    return _save(folder, vocabulary, seed, 0.02, {})


def _save(folder: Path, vocabulary: dict[str, int], seed: int, spread: float, shape: dict[str, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    width = _save_weights(folder, seed, spread, shape)
    _save_tokenizer(folder, vocabulary)
    _write(folder / "modules.json", [_module(0, "Transformer", ""), _module(1, "Pooling", "1_Pooling")])
    _write(folder / "1_Pooling" / "config.json", _POOLING | {"word_embedding_dimension": width})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": _POSITIONS, "do_lower_case": False})
    _write(folder / "config_sentence_transformers.json", {"__version__": {"sentence_transformers": "2.4.0"}})
    return folder


def with_auto_map(folder: Path) -> None:
    """Rewrite the folder's config.json as older ones on the hub are, with pointers to code and the old key names."""
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
        "AutoConfig": f"{_CODE}--configuration_hf_nomic_bert.NomicBertConfig",
        "AutoModel": f"{_CODE}--modeling_hf_nomic_bert.NomicBertModel",
        "AutoModelForMaskedLM": f"{_CODE}--modeling_hf_nomic_bert.NomicBertForPreTraining",
    },
    "activation_function": "swiglu",
    "causal": False,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": _POSITIONS,
    "n_embd": HIDDEN,
    "n_head": _TINY["num_attention_heads"],
    "n_inner": _TINY["intermediate_size"],
    "n_layer": _TINY["num_hidden_layers"],
    "n_positions": 4 * _POSITIONS,
    "prenorm": False,
    "qkv_proj_bias": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "torch_dtype": "float32",
    "use_flash_attn": True,
}


def _save_weights(folder: Path, seed: int, spread: float, shape: dict[str, Any]) -> int:
    """Gives the length of the vectors."""
    import torch
    from transformers import NomicBertConfig, NomicBertModel

    config = NomicBertConfig(**shape, max_position_embeddings=_POSITIONS, initializer_range=spread)
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(seed)
        model = NomicBertModel(config)
        for norm in (each for each in model.parameters() if each.dim() == 1):
            # New layer norms give rows of mean zero, as no trained model does.
            norm.add_(spread * torch.randn_like(norm))
        model.save_pretrained(folder)
    return int(config.hidden_size)


def _save_tokenizer(folder: Path, vocabulary: dict[str, int]) -> None:
    from transformers import BertTokenizer

    BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=_POSITIONS).save_pretrained(folder)


def _vocabulary() -> dict[str, int]:
    """Single characters only: every word of the scripts covered has pieces, any other is unknown."""
    letters = string.ascii_lowercase + string.digits
    letters += "".join(chr(code) for first, last in _SCRIPTS for code in range(first, last + 1))
    tokens = [*_SPECIAL, *string.punctuation, *letters, *(f"##{letter}" for letter in letters)]
    return {token: number for number, token in enumerate(tokens)}


def _module(number: int, kind: str, path: str) -> dict[str, Any]:
    return {"idx": number, "name": str(number), "path": path, "type": f"{_MODULES}.{kind}"}


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
