"""Attention that queries of the next tokens are expected to pay (Expected Attention, 2510.00636).

Shape legend: B batch, N text tokens, S positions, F future positions, L layers, A heads of queries, H heads of keys and
values, G heads of queries of a group, E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from r3mem.backbone.attention import LayerAttention, Observed
from r3mem.compressors.scorers.base import Scorer
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import check_whole


class ExpectedAttention(Scorer):
    """Expected attention of coming queries, times the norm of the value; no attention of the pass itself is used.

    Queries of the text, turned back to position 0, have a mean m and a covariance C in each head. Turned to each of the
    next ``ahead`` positions and averaged, these are ``R m`` and ``R C R^T``. A normal query q with them has
    ``E[exp(q k)] = exp(k R m + k R C R^T k / 2)``, the products scaled as the model scales them. That is normalised
    over the positions behind the sinks, averaged over the heads of a group, and multiplied by ``|v|``.

    The paper's method, as NVIDIA's ``ExpectedAttentionPress`` has it. Where this differs: sinks have the highest score
    of their head rather than of the layer. A memory in front counts among the positions, its queries are not known.
    Models with learned positions (GPT-2) turn nothing: their queries are taken as they are.

    It costs a product of two width x width matrices per position and query head: less than a pass.

    Args:
        ahead: Positions behind the text over which the turn is averaged, at least 1.
        sinks: First positions, whose queries and keys do not count and which are always kept.
        epsilon: Added to the expected attention before it is multiplied by the norm of the value.

    Raises:
        ConfigError: No position ahead, or sinks or epsilon below 0.
    """

    def __init__(self, ahead: int = 512, sinks: int = 4, epsilon: float = 0.0) -> None:
        super().__init__()
        check_whole(ahead=ahead, sinks=sinks)
        if ahead < 1 or sinks < 0 or epsilon < 0:
            raise ConfigError(
                f"ahead {ahead}, sinks {sinks} and epsilon {epsilon} are not possible: give at least 1 position, "
                "and sinks and epsilon from 0"
            )
        self.ahead, self.sinks, self.epsilon = ahead, sinks, epsilon

    @torch.no_grad()
    def score(self, observed: Observed, sums: Iterator[Tensor]) -> Tensor:
        """See :meth:`Scorer.score`."""
        sink_BS = observed.valid_BS & (observed.rank_BS < self.sinks)
        counted_BS = observed.valid_BS & ~sink_BS
        turn_BEE = self._mean_turn(observed)
        layers = [
            self._layer(observed, layer, counted_BS & observed.seen_BS(number), turn_BEE)
            for number, layer in enumerate(observed.layers)
        ]
        scores_BLHS = torch.stack(layers, 1)
        highest_BLH1 = scores_BLHS.amax(-1, keepdim=True)
        # Where all are sinks, they are worth the same, and not nothing.
        highest_BLH1 = torch.where(highest_BLH1 > 0, highest_BLH1, 1.0)
        return torch.where(sink_BS[:, None, None], highest_BLH1, scores_BLHS)

    def _mean_turn(self, observed: Observed) -> Tensor:
        """``R^T`` of each row, ``BEE``: what queries at position 0 become, averaged over the positions to come."""
        width, device = observed.layers[0].keys_BHSE.shape[-1], observed.valid_BS.device
        rotary = observed.read.key_values.rotary
        start_B = observed.positions_BS[:, observed.n_memory] + observed.text.lengths_B
        unit_1EFE = torch.eye(width, device=device)[None, :, None].expand(1, -1, self.ahead, -1)
        ahead_F = torch.arange(self.ahead, device=device)
        turns = {n: rotary.turn(unit_1EFE, (n + ahead_F)[None])[0].mean(1) for n in set(start_B.tolist())}
        return torch.stack([turns[n] for n in start_B.tolist()])

    def _layer(self, observed: Observed, layer: LayerAttention, counted_BS: Tensor, turn_BEE: Tensor) -> Tensor:
        """Scores ``BHS`` of one layer; 0 at sinks and padding."""
        rotary, n_memory = observed.read.key_values.rotary, observed.n_memory
        queries_BANE = rotary.turn(layer.queries_BANE.float(), observed.positions_BS[:, n_memory:], back=True)
        queries_BANE = queries_BANE * layer.scaling
        weights_B1N1 = counted_BS[:, None, n_memory:, None].float()
        count_B111 = weights_B1N1.sum(2, keepdim=True).clamp(min=1)
        mean_BA1E = (queries_BANE * weights_B1N1).sum(2, keepdim=True) / count_B111
        centred_BANE = (queries_BANE - mean_BA1E) * weights_B1N1
        covariance_BAEE = centred_BANE.transpose(2, 3) @ centred_BANE / count_B111
        turn_B1EE = turn_BEE[:, None]
        mean_BA1E = mean_BA1E @ turn_B1EE
        covariance_BAEE = turn_B1EE.transpose(2, 3) @ covariance_BAEE @ turn_B1EE
        keys_BHSE = layer.keys_BHSE.float()
        groups = queries_BANE.shape[1] // keys_BHSE.shape[1]
        keys_BH1SE = keys_BHSE[:, :, None]
        mean_BHG1E, covariance_BHGEE = (
            t.reshape(len(t), -1, groups, *t.shape[2:]) for t in (mean_BA1E, covariance_BAEE)
        )
        products_BHGS = (keys_BH1SE * mean_BHG1E).sum(-1)
        products_BHGS = products_BHGS + ((keys_BH1SE @ covariance_BHGEE) * keys_BH1SE).sum(-1) / 2
        counted_B11S = counted_BS[:, None, None]
        products_BHGS = products_BHGS.masked_fill(~counted_B11S, torch.finfo(products_BHGS.dtype).min)
        expected_BHS = products_BHGS.softmax(-1).mean(2)
        norm_BHS = layer.values_BHSE.float().norm(dim=-1)
        scores_BHS: Tensor = (expected_BHS + self.epsilon) * norm_BHS * counted_BS[:, None]
        return scores_BHS
