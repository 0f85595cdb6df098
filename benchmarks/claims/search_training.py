"""Training of a memory for search: the question's likelihood given the right memories against that given wrong ones.

Shape legend: B questions, T candidate passages of each, M = B * T rows, N text tokens.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.compare.methods import compressor_of, methods
from benchmarks.parts.harness import console, parser, run, start
from benchmarks.parts.questions import QuestionItem, read_questions
from benchmarks.parts.training import Reshuffled, train
from datamodules.questions import candidates_of
from r3mem import Backbone, InputError, R3Mem, Segments
from r3mem.objectives import log_likelihood
from r3mem.objectives.contrast import contrast
from r3mem.plain_data.query_template import TEMPLATE, QueryTemplate
from r3mem.plain_data.text_ids import text_ids
from r3mem.reversible import PositionBinding, ReversibleStack

# Titles and leads say what a passage is about.
FIRST = 0.75
SHARE = 0.25


def build(
    backbone_name: str, dtype: str, kind: str, ratio: int, options: dict[str, Any], share: float = SHARE
) -> R3Mem:
    """An untrained model."""
    backbone = Backbone(backbone_name, dtype, lora_rank=16)
    stack = ReversibleStack([PositionBinding(backbone.width, ratio, share)])
    return R3Mem(backbone, compressor_of(kind, backbone, ratio, longest=2048, **options), stack)


class Drawn(NamedTuple):
    """Ids of T candidates for each of B questions, ids of the questions, and which candidates are right.

    A question with fewer passages has empty ones in their place.
    """

    passages_BT: list[list[list[int]]]
    questions_B: list[list[int]]
    relevant_BT: torch.Tensor


class Draw:
    """Draws questions in random order, each with new candidates; repeated in a new order when all have been read.

    Args:
        items: Questions with their passages.
        tokenizer: The backbone's.
        batch: B.
        candidates: T.
        most_tokens: A passage is cut after so many.
        seed: Of the order and of the candidates.
        template: What stands between memory and question.
    """

    def __init__(
        self, items: list[QuestionItem], tokenizer: Any, batch: int, candidates: int, most_tokens: int, seed: int,
        template: str = TEMPLATE,
    ) -> None:  # fmt: skip
        self.tokenizer, self.candidates, self.most_tokens = tokenizer, candidates, most_tokens
        self.random = random.Random(seed)
        self.next_items = Reshuffled(items, batch, self.random)
        self.template = QueryTemplate(template)
        self.given = self.template.given(tokenizer)

    def ids(self, text: str) -> list[int]:
        """Tokens of a text."""
        return text_ids(text, self.tokenizer)

    def __call__(self) -> Drawn:
        drawn = self.next_items()
        passages_BT, relevant_BT = [], torch.zeros(len(drawn), self.candidates, dtype=torch.bool)
        for b, item in enumerate(drawn):
            chosen = candidates_of(np.array(item.supporting), self.candidates, self.random.getrandbits(32)).tolist()
            relevant_BT[b, : len(chosen)] = torch.tensor([item.supporting[p] for p in chosen])
            passages = [self.ids(item.passages[p])[: self.most_tokens] for p in chosen]
            passages_BT.append(passages + [[]] * (self.candidates - len(passages)))
        questions_B = [self.given + self.template.scored(self.tokenizer, item.question) for item in drawn]
        return Drawn(passages_BT, questions_B, relevant_BT)


def tokens_of(drawn: Drawn) -> int:
    """Tokens that a step reads; each question once for every candidate."""
    passages = sum(len(ids) for row in drawn.passages_BT for ids in row)
    return passages + drawn.relevant_BT.shape[1] * sum(map(len, drawn.questions_B))


def step_loss(model: R3Mem, drawn: Drawn, first: int, query_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Contrast over the candidates of each question, and with it the question's NLL given the right memories.

    Args:
        model: The model.
        drawn: Questions behind their template, and their candidates.
        first: Position of a question's first token behind its template.
        query_weight: Weight of the NLL, a mean over tokens.

    Returns:
        ``(loss, mean contrast)``.
    """
    n_questions, n_candidates = drawn.relevant_BT.shape
    device = model.backbone.device
    rows = [ids for candidates in drawn.passages_BT for ids in candidates]
    text = Segments.pad(rows, device)
    state, rows_B = model.step(text, logits=False).state, text.lengths_B
    asked = Segments.pad([ids for ids in drawn.questions_B for _ in range(n_candidates)], device)
    scores_BT = log_likelihood(model.likelihood(asked, state), asked, first).view(n_questions, n_candidates)
    relevant_BT = drawn.relevant_BT.to(device)
    total, count = contrast(scores_BT, relevant_BT, (rows_B > 0).view_as(relevant_BT))
    tokens_BT = (asked.lengths_B - first).view_as(scores_BT)
    nll = -(scores_BT * relevant_BT).sum() / (tokens_BT * relevant_BT).sum()
    mean = total / count.clamp(min=1)
    return mean + query_weight * nll, mean.detach()


def main() -> None:
    """Train a model for search and save it."""
    p = parser("Train a memory for search by question likelihood", [4, 8, 16])
    p.add_argument("--compressor", choices=methods(), default="edge_pool", help="how passages are compressed")
    p.add_argument("--questions", type=int, default=1200, help="questions to read, repeats counted")
    p.add_argument("--batch", type=int, default=2, help="questions a step")
    p.add_argument("--candidates", type=int, default=8, help="passages of each question that are told apart")
    p.add_argument("--passage-tokens", type=int, default=160, help="a passage is cut after so many")
    p.add_argument("--lr", type=float, default=5e-4, help="highest learning rate")
    p.add_argument("--query-weight", type=float, default=0.5, help="weight of the question's NLL beside the contrast")
    p.add_argument("--first", type=float, default=FIRST, help="share of slots for single first tokens in edge pooling")
    p.add_argument("--share", type=float, default=SHARE, help="exact share of a slot")
    p.add_argument("--write-layer", type=int, default=None, help="layer whose states become slots")
    p.add_argument("--read-layer", type=int, default=None, help="layer at which a memory enters")
    p.add_argument("--save", type=Path, required=True, metavar="DIR", help="where the trained model goes")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to run")
    args = start(p)
    if args.candidates < 2 or min(args.questions, args.batch, args.passage_tokens) < 1:
        raise InputError("--candidates must be at least 2, --questions, --batch and --passage-tokens at least 1")
    options: dict[str, Any] = {"write_layer": args.write_layer, "read_layer": args.read_layer}
    if args.compressor == "edge_pool":
        options |= {"first": args.first, "last": 0.0}
    model = build(args.backbone, args.dtype, args.compressor, max(args.ratio), options, args.share).to(args.device)
    # One that has as many right passages as candidates would be told apart from nothing.
    read = [item for path in args.text for item in read_questions(path)]
    items = [item for item in read if 0 < sum(item.supporting) < min(args.candidates, len(item.passages))]
    console.print(f"{len(items)} questions to train on")
    draw = Draw(items, model.backbone.tokenizer, args.batch, args.candidates, args.passage_tokens, args.seed)
    sample = [i for item in items[:60] for passage in item.passages[:4] for i in draw.ids(passage)]
    console.print(f"reading explains {model.calibrate(sample, 128):.0%} of its target's variance before training")

    def loss(step: int, drawn: Drawn) -> tuple[torch.Tensor, torch.Tensor]:
        model.set_ratio(args.ratio[step % len(args.ratio)])
        return step_loss(model, drawn, len(draw.given), args.query_weight)

    steps = max(1, args.questions // args.batch)
    cost = train("contrast", model, steps, args.lr, draw, loss, tokens_of)
    model.set_ratio(max(args.ratio))
    model.save_pretrained(args.save)
    about = {**asdict(cost), "questions": steps * args.batch, "share": args.share, "first": args.first}
    (args.save / "training.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
