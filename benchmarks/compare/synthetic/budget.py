"""What is held equal for all methods on the synthetic tasks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskBudget:
    """Sizes of the small language model, of the trainings and of the evaluation.

    Attributes:
        width: D of the small Llama.
        layers: Its depth.
        heads: Its attention heads.
        reader_steps: Most steps of its own training on full text, which ends when it solves the task.
        reader_step_tokens: Tokens of histories and questions in each of these, about.
        steps: Optimiser steps of a method.
        held: Share of them, at most, in which the easiest level alone is trained, until it is solved.
        solved_nll: Mean NLL of an answer's token below which it is.
        rising: Share of the steps after that, over which everything harder comes in.
        step_tokens: Tokens of histories and questions a step, about.
        lr: Highest learning rate of a method.
        reader_lr: That of the small model on full text.
        autoencode: Weight of reconstructing each segment from its memory, the same for all methods; None leaves each
            the weight of its own file, which is 0 for most.
        questions: Asked about each history in training; one is asked in evaluation.
        train_segments: Longest histories in training, segments.
        ratios: Trained and measured at one segment.
        segments: Longer histories that are measured, segments.
        segment_ratios: Ratios measured there.
        examples: Measured at each point of one segment.
        long_examples: Measured at each point of several segments, which are most of the evaluation's time.
    """

    width: int = 64
    layers: int = 3
    heads: int = 2
    reader_steps: int = 3000
    reader_step_tokens: int = 2048
    steps: int = 800
    held: float = 0.5
    solved_nll: float = 0.5
    rising: float = 0.25
    step_tokens: int = 1024
    lr: float = 2e-3
    reader_lr: float = 3e-3
    autoencode: float | None = None
    questions: int = 8
    train_segments: int = 4
    ratios: tuple[int, ...] = (4, 8, 16)
    segments: tuple[int, ...] = (4, 16, 64)
    segment_ratios: tuple[int, ...] = (4, 16)
    examples: int = 256
    long_examples: int = 64

    @classmethod
    def full(cls, task: str) -> TaskBudget:
        """Of the published figures: reconstruction decides more than the compressor does, so all methods have it alike.

        Associative recall is measured closely, with steps enough to leave a start of which nothing is learned in half.
        The other tasks have fewer points and steps, so that the whole suite takes hours and not a day.
        """
        if task == "associative_recall":
            return cls(autoencode=0.5, steps=1600)
        return cls(
            autoencode=0.5, steps=400 if task == "needle" else 800, ratios=(4, 16), segments=(4, 16),
            segment_ratios=(4,), examples=128, long_examples=32,
        )  # fmt: skip

    @classmethod
    def smoke(cls) -> TaskBudget:
        """Seconds: whether everything runs, nothing is learned."""
        return cls(
            width=32, layers=2, reader_steps=4, reader_step_tokens=256, steps=4, step_tokens=256, questions=2,
            train_segments=2, ratios=(4,), segments=(2,), segment_ratios=(4,), examples=8, long_examples=8,
        )  # fmt: skip

    def examples_at(self, segments: int) -> int:
        """Examples that a point of so many segments is measured on."""
        return self.examples if segments == 1 else self.long_examples
