"""Where a code fits several tokens, let the language model choose among them.

Shape legend: B batch, N text tokens, V vocabulary, C code dims, A ambiguous positions, k candidates a position.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.errors import ConfigError, InputError
from r3mem.memory import Segments
from r3mem.reversible.readout import NearestToken
from r3mem.whole_numbers import check_whole

LogitsOf = Callable[[Tensor, Tensor], Tensor]
"""``(ids_BN, mask_BN) -> logits_BNV``, as a causal language model returns them: row i scores the token at i + 1."""


class UntouchedModel:
    """The language model that a prior asks: a backbone without its adapters.

    Args:
        backbone: The backbone.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def __call__(self, ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """See ``LogitsOf``."""
        with self.backbone.adapters_off():
            logits_BNV: Tensor | None = self.backbone(Segments(ids_BN, mask_BN.sum(1))).logits_BNV
        assert logits_BNV is not None
        return logits_BNV


class LanguageModelPrior:
    """Product of experts: how near a token's code is, times how likely the language model finds the token.

    Each candidate of an ambiguous position scores ``-distance^2 / (2 sigma^2) + weight * log p(token | text before)``.
    All positions are scored at once, on the text as it stands, and again while any of them changes. A position
    depends only on those before it, so the choices settle from the left and cannot circle; positions that have not
    settled after ``rounds`` keep their latest choice. What stays wrong is for the corrections to repair.

    Args:
        sigma: Standard deviation of the noise on the codes, in their units.
        weight: Trust in the language model; 0 leaves the nearest tokens as they are.
        k: Candidates a position.
        rounds: Calls of the language model at most.
        tolerance: Margin below which a position is ambiguous; the readout's own when None.

    Raises:
        ConfigError: A setting outside its range.
    """

    def __init__(
        self, sigma: float, weight: float = 1.0, k: int = 8, rounds: int = 3, tolerance: float | None = None
    ) -> None:
        if not sigma > 0:
            raise ConfigError(f"sigma must be above 0, got {sigma}")
        if not weight >= 0:
            raise ConfigError(f"weight must be 0 or more, got {weight}")
        check_whole(k=k, rounds=rounds)
        if k < 2:
            raise ConfigError(f"k must be at least 2, or there is nothing to choose from; got {k}")
        if rounds < 1:
            raise ConfigError(f"rounds must be at least 1, got {rounds}")
        if tolerance is not None and not tolerance >= 0:
            raise ConfigError(f"the tolerance must be 0 or more, got {tolerance}")
        self.sigma, self.weight, self.k, self.rounds, self.tolerance = sigma, weight, k, rounds, tolerance

    @torch.no_grad()
    def refine(
        self, codes_BNC: Tensor, readout: NearestToken, ids_BN: Tensor, mask_BN: Tensor, logits_of: LogitsOf
    ) -> Tensor:
        """Choose again at the ambiguous positions.

        Args:
            codes_BNC: The codes that were read.
            readout: What read them.
            ids_BN: The tokens it read, ``long``.
            mask_BN: True where a token stands; other positions are neither read nor changed.
            logits_of: The language model, called with whole batches of ``ids_BN`` and ``mask_BN``, and not at all
                when nothing is ambiguous. The first token of a row has no prediction and goes by its distance alone.

        Returns:
            ``ids_BN``, a new tensor; unambiguous positions are those given.

        Raises:
            InputError: Shapes that do not agree, or logits that are NaN.
            ConfigError: Logits over fewer tokens than the candidates name.
        """
        if codes_BNC.shape[:2] != ids_BN.shape or mask_BN.shape != ids_BN.shape:
            shapes = ", ".join(str(tuple(t.shape)) for t in (codes_BNC, ids_BN, mask_BN))
            raise InputError(f"codes, ids and mask must agree on batch and length; got {shapes}")
        ids_BN = ids_BN.clone()
        mask_BN = mask_BN.bool()
        thin_BN = torch.zeros_like(mask_BN)
        codes_MC = codes_BNC[mask_BN]
        thin_BN[mask_BN] = readout.ambiguous(codes_MC, readout.nearest(codes_MC)[1], self.tolerance)
        if self.weight == 0 or not bool(thin_BN.any()):
            return ids_BN
        candidates_Ak, distances_Ak = readout.candidates(codes_BNC[thin_BN], self.k)
        fit_Ak = -distances_Ak.square() / (2 * self.sigma**2)
        row_A, position_A = thin_BN.nonzero(as_tuple=True)
        predicted_A = position_A > 0
        for _ in range(self.rounds):
            logits_BNV = logits_of(ids_BN, mask_BN)
            if logits_BNV.shape[:2] != ids_BN.shape:
                raise InputError(f"logits of shape {tuple(logits_BNV.shape)} for ids of shape {tuple(ids_BN.shape)}")
            logits_Ak = _candidate_logits(logits_BNV, row_A, (position_A - 1).clamp_min(0), candidates_Ak)
            score_Ak = fit_Ak + self.weight * torch.where(predicted_A[:, None], logits_Ak, 0.0)
            chosen_A = candidates_Ak.gather(1, score_Ak.argmax(1, keepdim=True))[:, 0]
            if torch.equal(chosen_A, ids_BN[thin_BN]):
                break
            ids_BN[thin_BN] = chosen_A
        return ids_BN


def _candidate_logits(logits_BNV: Tensor, row_A: Tensor, position_A: Tensor, candidates_Ak: Tensor) -> Tensor:
    """``log p`` of the candidates less its normaliser, which all candidates of a position share: it decides nothing."""
    if int(candidates_Ak.max()) >= logits_BNV.shape[-1]:
        raise ConfigError(
            f"the language model scores {logits_BNV.shape[-1]} tokens but the table holds token "
            f"{int(candidates_Ak.max())}: use the table of the same backbone"
        )
    logits_Ak = logits_BNV[row_A[:, None], position_A[:, None], candidates_Ak].to(torch.float32)
    if bool(logits_Ak.isnan().any()):
        raise InputError("the language model returned NaN logits: check its precision and its attention mask")
    return logits_Ak
