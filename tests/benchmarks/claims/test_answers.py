"""Gains of gold answers: contexts hold what they must, and at ratio 1 everything that is read is the full text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from benchmarks.parts.asked import by_rank, draw, fitting, sentence_starts
from benchmarks.parts.gains import FULL, NOTHING, Measured
from benchmarks.parts.questions import QuestionItem, read_questions
from r3mem import InputError
from tests.benchmarks.scripts import process, refused

OURS = "selected (1 pass)"
BY_MEMORY = {
    OURS, "selected (2 passes)", "attention received", "distant attention", "sinks and last", "random",
    f"{OURS}, another question's",
}  # fmt: skip
RAW = {"raw last", "raw first", "BM25 sentences"}


def squad(articles: int, questions: int = 1) -> list[dict[str, Any]]:
    return [
        {"title": f"Town{a}", "paragraphs": [
            {"context": f"Town{a} lies by a river. Founder{a}x{p} built it.", "qas": [
                {"question": f"Who built Town{a}?", "id": f"{a}-{p}-{q}", "answers": [
                    {"text": f"Founder{a}x{p}", "answer_start": 3}, {"text": "another", "answer_start": 0},
                ]} for q in range(questions)
            ]} for p in range(2)
        ]} for a in range(articles)
    ]  # fmt: skip


def hotpot(questions: int) -> list[dict[str, Any]]:
    return [
        {"question": f"Who built Town{q}x3?", "answer": f"Founder{q}", "contexts": [
            {"title": f"Town{q}x{i}", "sentences": [f"Town{q}x{i} lies by a river.", f" Founder{q} built it."],
             "is_supporting": i == 3} for i in range(5)
        ]} for q in range(questions)
    ]  # fmt: skip


def natural(questions: int) -> list[dict[str, Any]]:
    return [
        {"question": f"who built town{q}", "answers": [f"Founder{q}", "nobody"], "title": f"Town{q}",
         "passage": f"Town{q} lies by a river. It was built by Founder{q}."} for q in range(questions)
    ]  # fmt: skip


def written(folder: Path, name: str, records: list[dict[str, Any]]) -> str:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def test_answers(tmp_path: Path, backbone_folder: Path) -> None:
    files = [
        written(tmp_path, "squad", squad(2)), written(tmp_path, "nq", natural(3)),
        written(tmp_path, "hotpot", hotpot(2)),
    ]  # fmt: skip
    result = tmp_path / "result.json"
    done = process(
        "claims.answers", "--text", *files, "--backbone", str(backbone_folder), "--ratio", "4", "1", "--questions", "3",
        "--context", "150", "--json", str(result),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    made = json.loads(result.read_text())
    for text, questions in (("squad", 3), ("nq", 3), ("hotpot", 2)):
        (name,) = (name for name in made["texts"] if name.endswith(f"/{text}"))
        rows = {(row["method"], row["ratio"]): row for row in made["rows"] if row["text"] == name}
        assert {method for method, ratio in rows if ratio == 1} == BY_MEMORY | RAW
        assert {method for method, ratio in rows if ratio == 4} == BY_MEMORY | RAW | {f"{OURS}, chosen by the question"}
        assert all(row["questions"] == len(row["nll_by_question"]) == questions for row in rows.values())
        nothing, full = rows["nothing", None], rows["full", None]
        assert (nothing["positions"], nothing["gain"], full["gain"]) == (0, 0, 1)
        assert full["gained"] == pytest.approx(nothing["nll"] - full["nll"])
        for method in RAW:
            assert rows[method, 1]["nll"] == full["nll"] and rows[method, 1]["positions"] == full["positions"]
        for method in BY_MEMORY - {f"{OURS}, another question's"}:
            # A slot for every token: what is read is what the full pass has.
            assert rows[method, 1]["nll"] == pytest.approx(full["nll"], abs=1e-4)
            assert rows[method, 4]["nll"] != rows[method, 1]["nll"]
        assert rows[f"{OURS}, another question's", 1]["nll"] != pytest.approx(full["nll"], abs=1e-4)
        chosen, ours = rows[f"{OURS}, chosen by the question", 4], rows[OURS, 4]
        assert chosen["positions"] == ours["positions"] == rows["BM25 sentences", 4]["positions"]
        assert chosen["nll"] != ours["nll"]
        for other, column in (("raw last", "ahead"), ("BM25 sentences", "ahead_of_bm25")):
            assert rows[other, 4][column] == 0 and ours[column] == pytest.approx(ours["gain"] - rows[other, 4]["gain"])
    # Five paragraphs of 50 bytes and more do not fit 150; the one that supports does.
    hotpot_about = made["texts"][name]
    assert hotpot_about["paragraphs"] == 5 and hotpot_about["paragraphs_kept"] == 2


def test_one_question_has_no_control(tmp_path: Path, backbone_folder: Path) -> None:
    path = written(tmp_path, "nq", natural(1))
    assert "two are needed" in refused("claims.answers", "--text", path, "--backbone", backbone_folder)


def test_a_context_is_cut_around_its_support(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    item = QuestionItem("q", "a", ["x" * 10, "y" * 30, "S" * 20, "z" * 8, "T" * 5], [False, False, True, False, True])
    assert fitting(item, byte_tokenizer, 100) == item.passages
    # 20 + 5 and two bytes between; x brings 12, z 10, y 32.
    assert fitting(item, byte_tokenizer, 49) == ["x" * 10, "S" * 20, "z" * 8, "T" * 5]
    assert fitting(item, byte_tokenizer, 48) == ["x" * 10, "S" * 20, "T" * 5]
    assert fitting(item, byte_tokenizer, 27) == ["S" * 20, "T" * 5] and fitting(item, byte_tokenizer, 26) is None


def test_every_context_is_drawn_once(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    path = written(tmp_path, "squad", squad(3, questions=4))
    assert len(read_questions(path)) == 24
    drawn = draw(path, byte_tokenizer, 10, 1000, 0)
    contexts = {byte_tokenizer.decode(asked.context_N) for asked in drawn.asked}
    assert len(drawn.asked) == len(contexts) == 6 and drawn.too_long == 0
    asked = drawn.asked[0]
    town = byte_tokenizer.decode(asked.context_N).partition("\n")[0]
    assert byte_tokenizer.decode(asked.prompt_Q) == f"\nQuestion: Who built {town}?\nAnswer:"
    assert byte_tokenizer.decode(asked.answer_A).startswith(f" Founder{town[-1]}x")
    assert len(draw(path, byte_tokenizer, 2, 1000, 0).asked) == 2


def test_every_set_is_read_by_the_file_that_training_reads_it_by(tmp_path: Path) -> None:
    common = {"question": "Who built Rome?", "answer": "Romulus"}
    sets = {
        "contexts": [{"title": "Ostia", "text": "A port.", "is_supporting": False},
                     {"title": "Rome", "sentences": ["It is old.", " Romulus built it."], "is_supporting": True}],
        "paragraphs": [{"title": "Ostia", "paragraph_text": "A port.", "is_supporting": False},
                       {"title": "Rome", "paragraph_text": "It is old. Romulus built it.", "is_supporting": True}],
        "context": [["Ostia", ["A port."]], ["Rome", ["It is old.", "Romulus built it."]]],
    }  # fmt: skip
    wanted = QuestionItem(*common.values(), ["Ostia\nA port.", "Rome\nIt is old. Romulus built it."], [False, True])
    for key, paragraphs in sets.items():
        record = {**common, key: paragraphs, "supporting_facts": [["Rome", 1]]}
        # Nothing supports the second one.
        bare = {**common, key: paragraphs[:1], "supporting_facts": []}
        assert read_questions(written(tmp_path, key, [record, bare, record])) == [wanted, wanted]


def test_a_record_of_another_form_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nq\.jsonl:2: not a question with paragraphs .*KeyError: 'passage'"):
        read_questions(written(tmp_path, "nq", [natural(1)[0], {"question": "Who?", "answers": ["He"], "title": "T"}]))
    with pytest.raises(InputError, match=r"hotpot\.jsonl:1: .*supporting: 'is_supporting' leads nowhere"):
        read_questions(written(tmp_path, "hotpot", [{**hotpot(1)[0], "contexts": [{"title": "T", "text": "x"}]}]))


def test_questions_whose_support_is_too_long_are_counted(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    records = natural(4)
    records[2]["passage"] += " and so on" * 50
    drawn = draw(written(tmp_path, "nq", records), byte_tokenizer, 10, 120, 0)
    assert (len(drawn.asked), drawn.too_long, drawn.paragraphs, drawn.kept) == (3, 1, 1, 1)


def test_best_sentences_come_first_and_in_order(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Rome\nRome is old. The harp sounds. A harp of gold — naïve, 漢字. \n\nNothing here."
    ids = byte_tokenizer(text).input_ids
    starts = sentence_starts(text)
    sentences = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    assert sentences[0] == "Rome\nRome is old. " and "".join(sentences) == text and all(s.strip() for s in sentences)
    ranked = by_rank(text, ids, "Where is the golden harp of gold?", byte_tokenizer)
    assert sorted(ranked) == list(range(len(ids)))
    assert sentences[1:3] == ["The harp sounds. ", "A harp of gold — naïve, 漢字. \n\n"]
    assert byte_tokenizer.decode([ids[place] for place in ranked]).startswith(sentences[2] + sentences[1])


def test_gains_are_shares_of_what_everything_is_worth() -> None:
    measured = Measured("question", "ratio", {"raw last": "ahead"})
    for nothing, full, ours, raw in ((4.0, 2.0, 2.5, 3.0), (6.0, 2.0, 3.5, 5.0)):
        for name, ratio, nll in ((NOTHING, 0, nothing), (FULL, 0, full), ("ours", 8, ours), ("raw last", 8, raw)):
            measured.add(name, ratio, nll)
    assert measured.worth == 3
    rows = {row["method"]: row for row in measured.rows(seed=0)}
    ours = rows["ours"]
    # Of the six nats that both questions gain, ours has 1.5 + 2.5, raw 1 + 1.
    assert (ours["gained"], ours["gain"], ours["ahead"]) == pytest.approx((2, 4 / 6, 4 / 6 - 2 / 6))
    # Drawn with replacement it is the first alone, both, or the second alone.
    assert (ours["gain_low"], ours["gain_high"]) == pytest.approx((2.5 / 4, 1.5 / 2))
    assert (ours["ahead_low"], ours["ahead_high"]) == pytest.approx((0.25, 0.375))
    assert "ahead" not in rows[NOTHING] and ours["nll_by_question"] == [2.5, 3.5]
    assert np.isclose(rows["raw last"]["ahead"], 0) and ours["questions"] == 2
