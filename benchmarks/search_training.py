"""Training of a memory for search: the question's likelihood given the right memories against that given wrong ones.

Shape legend: B questions, T candidate passages of each, M = B * T rows, N text tokens.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from harness import COMPRESSORS, compressor, console, parser, run, start
from questions import QuestionItem, read_questions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from r3mem import Backbone, InputError, R3Mem, Segments
from r3mem.objectives import contrast, log_likelihood
from r3mem.query_template import TEMPLATE, QueryTemplate
from r3mem.reversible import PositionBinding, ReversibleStack

# Titles and leads say what a passage is about.
FIRST = 0.75


@dataclass
class Trained:
    """What a training cost.

    Attributes:
        train_seconds: Wall time of the steps.
        train_tokens: Tokens of passages and questions that were read.
        questions: Questions that were seen, repeats counted.
        curve: ``[questions, mean contrast since the point before]``.
    """

    train_seconds: float = 0.0
    train_tokens: int = 0
    questions: int = 0
    curve: list[list[float]] = field(default_factory=list)


def build(backbone_name: str, dtype: str, kind: str, ratio: int, share: float, options: dict[str, Any]) -> R3Mem:
    """An untrained model."""
    backbone = Backbone(backbone_name, dtype, lora_rank=16)
    stack = ReversibleStack([PositionBinding(backbone.width, ratio, share)])
    return R3Mem(backbone, compressor(kind, backbone, ratio, **options), stack)


def step_loss(
    model: R3Mem, passages_BT: list[list[list[int]]], questions_B: list[list[int]], first: int,
    relevant_BT: torch.Tensor, query_weight: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Contrast over the candidates of each question, and with it the question's NLL given the right memories.

    Args:
        model: The model.
        passages_BT: Token ids of T candidates for each question.
        questions_B: Token ids of the template with the question in it.
        first: Position in those of the question's first token.
        relevant_BT: ``bool``; candidates that support the answer.
        query_weight: Weight of the NLL, a mean over tokens.

    Returns:
        ``(loss, mean contrast)``.
    """
    n_questions, n_candidates = relevant_BT.shape
    device = model.backbone.device
    rows = [ids for candidates in passages_BT for ids in candidates]
    state = model.step(Segments.pad(rows, device), logits=False).state
    asked = Segments.pad([ids for ids in questions_B for _ in range(n_candidates)], device)
    scores_BT = log_likelihood(model.likelihood(asked, state), asked, first).view(n_questions, n_candidates)
    relevant_BT = relevant_BT.to(device)
    total, count = contrast(scores_BT, relevant_BT, torch.ones_like(relevant_BT))
    tokens_BT = (asked.lengths_B - first).view_as(scores_BT)
    nll = -(scores_BT * relevant_BT).sum() / (tokens_BT * relevant_BT).sum()
    mean = total / count.clamp(min=1)
    return mean + query_weight * nll, mean.detach()


def candidates_of(item: QuestionItem, n_candidates: int, draw: random.Random) -> tuple[list[str], list[bool]]:
    """All supporting passages that fit and others drawn at random, in random order."""
    right = [p for p, s in zip(item.passages, item.supporting, strict=True) if s]
    wrong = [p for p, s in zip(item.passages, item.supporting, strict=True) if not s]
    right = draw.sample(right, min(len(right), n_candidates - 1))
    chosen = [(p, True) for p in right] + [
        (p, False) for p in draw.sample(wrong, min(len(wrong), n_candidates - len(right)))
    ]
    while len(chosen) < n_candidates:
        chosen.append((draw.choice(wrong), False))
    draw.shuffle(chosen)
    return [p for p, _ in chosen], [s for _, s in chosen]


def train(
    model: R3Mem, items: list[QuestionItem], ratios: list[int], questions: int, batch: int, n_candidates: int,
    most_tokens: int, lr: float, query_weight: float, seed: int, template: str = TEMPLATE,
) -> Trained:  # fmt: skip
    """Train a model on questions, every step at the next of the ratios.

    Args:
        model: The untrained model.
        items: Questions with their passages.
        ratios: Ratios to train for.
        questions: Questions to read; they are repeated in a new order when all have been read.
        batch: B.
        n_candidates: T.
        most_tokens: A passage is cut after so many.
        lr: Highest learning rate.
        query_weight: Weight of the question's NLL beside the contrast.
        seed: Of the order and of the candidates.
        template: What stands between memory and question.
    """
    draw, trained = random.Random(seed), Trained()
    tokenizer = model.backbone.tokenizer

    def ids_of(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    asking = QueryTemplate(template)
    given = asking.given(tokenizer)
    sample = [i for item in items[:60] for passage in item.passages[:4] for i in ids_of(passage)]
    console.print(f"reading explains {model.calibrate(sample, 128):.0%} of its target's variance before training")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    steps = max(1, questions // batch)
    queue: list[QuestionItem] = []
    losses: list[float] = []
    model.train()
    with Progress(
        TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("contrast {task.fields[loss]:.3f}"),
        TimeRemainingColumn(), console=console,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=steps, loss=float("nan"))
        for step in range(steps):
            if len(queue) < batch:
                queue = draw.sample(items, len(items))
            drawn = [queue.pop() for _ in range(batch)]
            chosen = [candidates_of(item, n_candidates, draw) for item in drawn]
            passages = [[ids_of(p)[:most_tokens] for p in texts] for texts, _ in chosen]
            asked = [given + asking.scored(tokenizer, item.question) for item in drawn]
            began = time.perf_counter()
            factor = min(1.0, (step + 1) / 20, (steps - step) / max(1, steps // 3))
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            model.set_ratio(ratios[step % len(ratios)])
            relevant_BT = torch.tensor([marks for _, marks in chosen])
            loss, mean = step_loss(model, passages, asked, len(given), relevant_BT, query_weight)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(mean))
            trained.train_seconds += time.perf_counter() - began
            trained.train_tokens += sum(len(p) for row in passages for p in row) + n_candidates * sum(map(len, asked))
            trained.questions += batch
            progress.update(task, advance=1, loss=losses[-1])
            if (step + 1) % max(1, steps // 10) == 0:
                trained.curve.append([trained.questions, sum(losses) / len(losses)])
                console.print(f"{trained.questions} questions: contrast {trained.curve[-1][1]:.3f}")
                losses = []
    model.eval()
    return trained


def main() -> None:
    """Train a model for search and save it."""
    p = parser("Train a memory for search by question likelihood", [4, 8, 16])
    p.add_argument("--compressor", choices=sorted(COMPRESSORS), default="edge_pool", help="how passages are compressed")
    p.add_argument("--questions", type=int, default=1200, help="questions to read, repeats counted")
    p.add_argument("--batch", type=int, default=2, help="questions a step")
    p.add_argument("--candidates", type=int, default=8, help="passages of each question that are told apart")
    p.add_argument("--passage-tokens", type=int, default=160, help="a passage is cut after so many")
    p.add_argument("--lr", type=float, default=5e-4, help="highest learning rate")
    p.add_argument("--query-weight", type=float, default=0.5, help="weight of the question's NLL beside the contrast")
    p.add_argument("--first", type=float, default=FIRST, help="share of slots for single first tokens in edge pooling")
    p.add_argument("--share", type=float, default=0.25, help="exact share of a slot")
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
    model = build(args.backbone, args.dtype, args.compressor, max(args.ratio), args.share, options).to(args.device)
    items = [
        item for path in args.text for item in read_questions(path) if any(item.supporting) and not all(item.supporting)
    ]
    console.print(f"{len(items)} questions to train on")
    trained = train(
        model, items, args.ratio, args.questions, args.batch, args.candidates, args.passage_tokens, args.lr,
        args.query_weight, args.seed,
    )  # fmt: skip
    model.set_ratio(max(args.ratio))
    model.save_pretrained(args.save)
    (args.save / "training.json").write_text(json.dumps(asdict(trained)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
