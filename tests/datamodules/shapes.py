"""One or two invented records in the shape of each data set that ``configs/data`` has a file for."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import yaml

from tests.tiny_run import CONFIGS

BOOK = {
    "id": "b1",
    "title": "A Walk",
    "words": 12,
    "chapters": [
        {"head": "I", "paragraphs": ["It rained.", "Mr. Ost went out."]},
        {"head": "", "paragraphs": ["He came back — wet."]},
        {"head": "III", "paragraphs": []},
        {"head": "", "paragraphs": []},
    ],
}
PAPER = {
    "id": "P1",
    "title": "On Ducks",
    "abstract": ["We study ducks.", "They swim."],
    "sections": [
        {"title": "1 Introduction", "sentences": ["Ducks are birds.", "Many swim."]},
        {"title": "2 End", "sentences": ["So they do."]},
    ],
    "summary_human": "Ducks.",
}
LITBANK = {
    "id": "l1",
    "title": "the garden",
    "text": "When Mary came to the Manor ,\nher uncle wept .",
    "entities": [
        {"start": 5, "end": 9, "type": "PER", "text": "Mary"},
        {"start": 18, "end": 27, "type": "FAC", "text": "the Manor"},
        {"start": 30, "end": 39, "type": "PER", "text": "her uncle"},
        {"start": 30, "end": 33, "type": "PER", "text": "her"},
    ],
}
PASSAGE = {
    "title": "Journal",
    "text": "The Journal of Physics began in 1963. Its editor is Jan Solo, says the journal of physics.",
    "extracted_entities": ["1963", "Journal of Physics", "jan solo", "Oslo"],
    "extracted_triples": [["Journal of Physics", "began", "1963"]],
}
MEETING = {
    "meeting_id": "M1",
    "topic_list": [{"topic": "Greetings", "relevant_text_span": [["0", "1"]]}],
    "general_query_list": [{"query": "Summarize", "answer": "They met."}],
    "specific_query_list": [
        {"query": "What did B say?", "answer": "Hello.", "relevant_text_span": [["1", "1"], ["3", "9"]]}
    ],
    "meeting_transcripts": [
        {"speaker": "A", "content": "Hi all ."},
        {"speaker": "B", "content": "Hello ."},
        {"speaker": "A", "content": ""},
        {"speaker": "C", "content": "Shall we go on ?"},
    ],
}
CHAT = {
    "sample_id": "c1",
    "conversation": {
        "speaker_a": "Ann",
        "speaker_b": "Bo",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ann", "dia_id": "D1:1", "text": "Hey Bo!"},
            {"speaker": "Bo", "dia_id": "D1:2", "text": "I painted a sunrise.", "query": "sunrise", "img_url": ["u"]},
        ],
        "session_2_date_time": "1:14 pm on 25 May, 2023",
        "session_2": [{"speaker": "Bo", "dia_id": "D2:1", "text": "I ran a race."}],
        "session_3_date_time": "a day without words",
    },
    "qa": [
        {"question": "What did Bo paint?", "answer": "a sunrise", "evidence": ["D1:2"], "category": 4},
        {"question": "When did Bo run?", "answer": 2023, "evidence": ["D2:1; D1:1"], "category": 2},
        {"question": "Where to?", "adversarial_answer": "Rome", "evidence": ["D9:1"], "category": 5},
    ],
    "event_summary": {},
}
DIARY = {
    "user": "Emily",
    "memory": {
        "name": "Emily",
        "history": {
            "2023-04-27": [
                {"query": "Hello.", "response": "Hello, Emily."},
                {"query": "I paint.", "response": "Nice."},
            ],
            "2023-04-28": [{"query": "I walked.", "response": "Where?"}],
        },
    },
    "probing_questions": ["What do I like?", "Where did I walk?"],
}
DIALOGUE = {
    "id": "d1",
    "dialogue": ["I have an idea", "Tell me more", "Later", "As you like"],
    "questions": [{"question_id": "q1", "mode": "single-turn", "question": "What did I have?", "answer": "An idea"}],
}
HOTPOT = {
    "id": "h1",
    "question": "Which band?",
    "answer": "Rush",
    "contexts": [
        {
            "title": "Jeff",
            "sentences": ["Jeff drums.", " He is fast."],
            "is_supporting": False,
            "supporting_sentences": [],
        },
        {"title": "Rush", "sentences": ["Rush is a band."], "is_supporting": True, "supporting_sentences": [0]},
        {"title": "Band", "sentences": ["Bands play."], "is_supporting": True, "supporting_sentences": [0]},
    ],
}
HOTPOT_TEXT = {
    "id": "h2",
    "question": "Which game?",
    "answer": "Omega",
    "contexts": [
        {"title": "Omega", "text": "Omega is a game.", "is_supporting": True},
        {"title": "Boy", "text": "Boy is a boy.", "is_supporting": False},
    ],
}
MUSIQUE = {
    "id": "2hop__1_2",
    "question": "What is the seat of the county?",
    "answer": "Stanley",
    "answer_aliases": [],
    "paragraphs": [
        {"idx": 0, "title": "Port", "paragraph_text": "Port is a city.", "is_supporting": False},
        {"idx": 1, "title": "County", "paragraph_text": "Stanley is its seat.", "is_supporting": True},
        {"idx": 2, "title": "Hook", "paragraph_text": "Hook lies in the county.", "is_supporting": True},
    ],
}
WIKI = {
    "_id": "w1",
    "question": "Who directed it?",
    "answer": "Ian",
    "supporting_facts": [["Film", 0], ["Ian", 1], ["Ian", 0]],
    "evidences": [["Film", "director", "Ian"]],
    "context": [
        ["Gabor", ["Gabor acts.", "He sings."]],
        ["Film", ["Film is a film."]],
        ["Ian", ["Ian directs.", "Yes."]],
    ],
}

#: Records of each file of ``configs/data``.
RECORDS: dict[str, list[dict[str, Any]]] = {
    "books_gutenberg": [BOOK],
    "papers_acl": [PAPER],
    "litbank": [LITBANK],
    "passage_entities": [PASSAGE],
    "qmsum": [MEETING],
    "locomo": [CHAT],
    "memorybank": [DIARY],
    "scm_dialogue": [DIALOGUE],
    "hotpotqa": [HOTPOT, HOTPOT_TEXT],
    "musique": [MUSIQUE],
    "2wikimultihopqa": [WIKI],
}


def write_records(name: str, folder: Path) -> None:
    """The records of a file of ``configs/data``, each split's file at its place under ``R3MEM_DATA``.

    Args:
        name: The file's name.
        folder: What ``R3MEM_DATA`` is set to.
    """
    config = yaml.safe_load((CONFIGS / "data" / f"{name}.yaml").read_text(encoding="utf-8"))
    for split in ("train", "validation", "test"):
        source = config["data"]["init_args"][split]
        if source is None:
            continue
        path = folder / source.partition("}/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        # Each split gets documents of its own, and training more than one, so that something is left of it.
        copies = [
            _numbered(record, f"{split} {i}") for i in range(4 if split == "train" else 1) for record in RECORDS[name]
        ]
        with (lzma.open if path.suffix == ".xz" else gzip.open)(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in copies)


def _numbered(value: Any, mark: str) -> Any:
    """A copy of a record whose sentences end in a mark of its own; places in the text stay where they are."""
    if isinstance(value, dict):
        return {key: _numbered(item, mark) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbered(item, mark) for item in value]
    return f"{value} {mark}." if isinstance(value, str) and value.endswith((".", " .")) else value
