"""Field mappings on records in the shape of each data set: every place in the text is what it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.conversation_reader import ConversationReader
from datamodules.document_reader import DocumentReader
from datamodules.fields import ConversationFields, DocumentFields, QuestionFields
from datamodules.question_reader import MappedQuestion, QuestionReader
from datamodules.record_reader import MappedDocument
from datamodules.sources import Record
from r3mem.errors import ConfigError, InputError
from r3mem.hierarchy import Mention
from tests.datamodules import shapes
from tests.tiny_run import CONFIGS

SESSION, TURN = 0, 1


def fields_of(name: str) -> dict[str, Any]:
    """The mapping that a shipped file gives."""
    file: dict[str, Any] = yaml.safe_load(Path(CONFIGS / "data" / f"{name}.yaml").read_text())
    return dict(file["data"]["init_args"]["fields"])


def document(name: str) -> tuple[MappedDocument, DocumentReader]:
    reader = DocumentReader(DocumentFields(**fields_of(name)))
    found = reader(Record(shapes.RECORDS[name][0], "x.jsonl:1"))
    assert found is not None and found.origin == "x.jsonl:1"
    return found, reader


def conversation(name: str) -> tuple[MappedDocument, ConversationReader]:
    reader = ConversationReader(ConversationFields(**fields_of(name)))
    found = reader(Record(shapes.RECORDS[name][0], "x.jsonl:1"))
    assert found is not None
    return found, reader


def questions(name: str) -> list[MappedQuestion]:
    reader = QuestionReader(QuestionFields(**fields_of(name)))
    found = [reader(Record(record, "x.jsonl:1")) for record in shapes.RECORDS[name]]
    assert not reader.left_out
    return [each for each in found if each is not None]


def parts(document: MappedDocument, depth: int) -> list[tuple[str, str]]:
    return [(p.title, document.text[p.start : p.end]) for p in document.parts if p.depth == depth]


def spans(document: MappedDocument) -> dict[str, list[str]]:
    return {q.text: [document.text[a:b] for a, b in q.spans] for q in document.questions}


# -- documents -------------------------------------------------------------------------------------------------------


def test_a_book() -> None:
    book, _ = document("books_gutenberg")
    assert book.text == "I\n\nIt rained.\n\nMr. Ost went out.\n\nHe came back — wet.\n\nIII"
    assert parts(book, 0) == [
        ("I", "I\n\nIt rained.\n\nMr. Ost went out."),
        ("", "He came back — wet."),
        ("III", "III"),
    ]
    assert (book.title, book.name, book.mentions) == ("A Walk", "b1", None)


def test_a_paper() -> None:
    paper, _ = document("papers_acl")
    assert paper.text.startswith("We study ducks. They swim.\n\n1 Introduction\n\nDucks are birds. Many swim.\n\n2 End")
    assert parts(paper, 0) == [
        ("1 Introduction", "1 Introduction\n\nDucks are birds. Many swim."),
        ("2 End", "2 End\n\nSo they do."),
    ]
    assert paper.title == "On Ducks"


def test_marked_entities() -> None:
    text, reader = document("litbank")
    assert text.text == shapes.LITBANK["text"] and text.mentions is not None
    found = [(text.text[m.start : m.end], m.kind) for m in text.mentions]
    assert found == [("Mary", "PER"), ("the Manor", "FAC"), ("her uncle", "PER"), ("her", "PER")]
    beyond = {
        **shapes.LITBANK,
        "entities": [{"start": 5, "end": 500, "type": "PER"}, {"start": 3, "end": 3, "type": "X"}],
    }
    assert (again := reader(Record(beyond, "x"))) is not None and again.mentions == ()
    assert reader.left_out == {"mentions outside their text": 2}


def test_entities_that_are_looked_up() -> None:
    passage, reader = document("passage_entities")
    assert passage.mentions is not None
    assert [passage.text[m.start : m.end] for m in passage.mentions] == ["Journal of Physics", "1963", "Jan Solo"]
    assert passage.mentions[1] == Mention(passage.text.index("1963"), passage.text.index("1963") + 4)
    assert reader.left_out == {"entities that are not in their text": 1}


def test_a_document_without_a_mapping() -> None:
    reader = DocumentReader(DocumentFields())
    assert (found := reader(Record({"id": "1", "text": "It is."}, "x"))) is not None and found.text == "It is."
    assert (found := reader(Record("Plain.", "x", structured=False))) is not None and found.text == "Plain."
    assert (found := reader(Record({"text": " "}, "x"))) is not None and found.text == " ", "blanks are text"
    assert reader(Record({"text": ""}, "x")) is None and reader.left_out == {"records without text": 1}


def test_a_path_that_leads_nowhere_in_the_first_record() -> None:
    reader = DocumentReader(DocumentFields(parts="chapters", part_text="paragraph"))
    with pytest.raises(
        InputError, match=r"b\.jsonl:1: part_text: 'paragraph' leads nowhere.*keys are: head, paragraphs"
    ):
        reader(Record(shapes.BOOK, "b.jsonl:1"))
    with pytest.raises(InputError, match=r"title: 'name' leads nowhere.*keys are: text"):
        DocumentReader(DocumentFields("text", title="name"))(Record({"text": "x"}, "b.jsonl:1"))
    with pytest.raises(InputError, match=r"keys are: none \(it is a list\)"):
        DocumentReader(DocumentFields("text"))(Record([], "b.jsonl:1"))


def test_a_later_record_may_lack_a_field() -> None:
    reader = DocumentReader(DocumentFields(text="text", title="title"))
    assert reader(Record({"text": "x", "title": "t"}, "1")) is not None
    assert (found := reader(Record({"text": "y"}, "2"))) is not None and found.title == ""
    assert reader(Record({"title": "z"}, "3")) is None and reader(Record({}, "4")) is None
    assert reader.left_out == {"records without text": 2}


# -- conversations ---------------------------------------------------------------------------------------------------


def test_a_meeting() -> None:
    meeting, reader = conversation("qmsum")
    assert meeting.text == "A: Hi all .\n\nB: Hello .\n\nA: \n\nC: Shall we go on ?"
    assert parts(meeting, SESSION) == [] and len(parts(meeting, TURN)) == 4
    assert parts(meeting, TURN)[1] == ("B", "B: Hello .")
    assert spans(meeting) == {"Greetings": ["A: Hi all .\n\nB: Hello ."], "What did B say?": ["B: Hello ."]}
    assert [q.answer for q in meeting.questions] == ["", "Hello."]
    assert reader.left_out == {"evidence that points nowhere": 1} and meeting.name == "M1"


def test_dated_sessions() -> None:
    chat, reader = conversation("locomo")
    first = "1:56 pm on 8 May, 2023\n\nAnn: Hey Bo!\n\nBo: I painted a sunrise."
    assert parts(chat, SESSION) == [
        ("1:56 pm on 8 May, 2023", first),
        ("1:14 pm on 25 May, 2023", "1:14 pm on 25 May, 2023\n\nBo: I ran a race."),
    ]
    assert parts(chat, TURN) == [
        ("Ann", "Ann: Hey Bo!"),
        ("Bo", "Bo: I painted a sunrise."),
        ("Bo", "Bo: I ran a race."),
    ]
    assert spans(chat) == {
        "What did Bo paint?": ["Bo: I painted a sunrise."],
        "When did Bo run?": ["Bo: I ran a race.", "Ann: Hey Bo!"],
        "Where to?": [],
    }
    assert [q.answer for q in chat.questions] == ["a sunrise", "2023", ""]
    assert reader.left_out == {
        "evidence that points nowhere": 1,
        "questions without evidence (kept, but no node answers them)": 1,
    }


def test_days_of_pairs() -> None:
    diary, _ = conversation("memorybank")
    assert [title for title, _ in parts(diary, SESSION)] == ["2023-04-27", "2023-04-28"]
    assert parts(diary, SESSION)[1][1] == "2023-04-28\n\nUser: I walked.\n\nAssistant: Where?"
    assert [title for title, _ in parts(diary, TURN)] == ["User", "Assistant"] * 3
    assert spans(diary) == {"What do I like?": [], "Where did I walk?": []} and diary.name == "Emily"


def test_turns_that_are_strings() -> None:
    dialogue, _ = conversation("scm_dialogue")
    assert dialogue.text == "User: I have an idea\n\nAssistant: Tell me more\n\nUser: Later\n\nAssistant: As you like"
    assert dialogue.questions[0].answer == "An idea"


def test_sessions_in_a_list_with_nested_turns() -> None:
    fields = ConversationFields(
        sessions="chat", date="time", turns="turns", speaker="role", text="content", turn_id="id",
        questions="probes.*", answer="answer|ideal", evidence="ids",
    )  # fmt: skip
    chat = [
        {
            "time": "May",
            "turns": [[{"role": "user", "id": 0, "content": "Hi"}], [{"role": "user", "id": 1, "content": "So"}]],
        },
        {"time": None, "turns": [[{"role": "bot", "id": 2, "content": "Yes"}]]},
    ]
    probes = {"a": [{"question": "Q?", "ideal": "A", "ids": {"first": [0], "second": [2]}}]}
    found = ConversationReader(fields)(Record({"chat": chat, "probes": probes}, "x"))
    assert found is not None and found.text == "May\n\nuser: Hi\n\nuser: So\n\nbot: Yes"
    assert [t for t, _ in parts(found, SESSION)] == ["May", ""] and spans(found) == {"Q?": ["user: Hi", "bot: Yes"]}


def test_a_conversation_without_turns() -> None:
    reader = ConversationReader(ConversationFields(turns="turns", speakers=["A", "B"]))
    assert reader(Record({"turns": ["x"]}, "1")) is not None
    assert reader(Record({"turns": []}, "2")) is None and reader(Record({"turns": [" "]}, "3")) is None
    assert reader.left_out == {"records without turns": 2, "turns without words": 1}
    wrong = ConversationReader(ConversationFields(turns="turns", speaker="who"))
    with pytest.raises(InputError, match=r"text: 'a turn that is a string' leads nowhere.*keys are: who, said"):
        wrong(Record({"turns": [{"who": "A", "said": "x"}]}, "1"))


# -- questions -------------------------------------------------------------------------------------------------------


def test_marked_paragraphs() -> None:
    first, second = questions("hotpotqa")
    assert [(p.text, p.supporting) for p in first.paragraphs] == [
        ("Jeff\nJeff drums. He is fast.", False), ("Rush\nRush is a band.", True), ("Band\nBands play.", True),
    ]  # fmt: skip
    assert second.paragraphs[0].text == "Omega\nOmega is a game." and second.answer == "Omega"
    (musique,) = questions("musique")
    assert [p.supporting for p in musique.paragraphs] == [False, True, True] and musique.name == "2hop__1_2"


def test_supporting_paragraphs_by_title() -> None:
    (wiki,) = questions("2wikimultihopqa")
    assert [(p.text, p.supporting) for p in wiki.paragraphs] == [
        ("Gabor\nGabor acts. He sings.", False), ("Film\nFilm is a film.", True), ("Ian\nIan directs. Yes.", True),
    ]  # fmt: skip
    as_document = wiki.document()
    assert parts(as_document, 0)[2] == ("Ian", "Ian\nIan directs. Yes.")
    assert spans(as_document) == {"Who directed it?": ["Film\nFilm is a film.", "Ian\nIan directs. Yes."]}


def test_questions_that_cannot_be_used_are_counted() -> None:
    reader = QuestionReader(QuestionFields(supporting="yes"))
    paragraphs = [{"title": "t", "text": "x", "yes": 1}, {"title": "u", "text": "", "yes": 0}]
    good = {"question": "Q?", "answer": ["A", "B"], "paragraphs": paragraphs}
    assert (found := reader(Record(good, "1"))) is not None and found.answer == "A" and len(found.paragraphs) == 1
    assert reader(Record({**good, "paragraphs": [{"title": "t", "text": "x", "yes": False}]}, "2")) is None
    assert (
        reader(Record({**good, "question": ""}, "3")) is None
        and reader(Record({**good, "paragraphs": []}, "4")) is None
    )
    assert reader.left_out == {
        "paragraphs without text": 2,
        "questions without a supporting paragraph": 1,
        "records without a question or without paragraphs": 2,
    }
    with pytest.raises(InputError, match=r"supporting: 'yes' leads nowhere.*keys are: title, text"):
        QuestionReader(QuestionFields(supporting="yes"))(
            Record({**good, "paragraphs": [{"title": "t", "text": "x"}]}, "1")
        )


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (DocumentFields, {"parts": "chapters"}),
        (DocumentFields, {"mentions": "entities"}),
        (DocumentFields, {"text": "text", "mentions": "a", "entities": "b"}),
        (QuestionFields, {}),
        (QuestionFields, {"supporting": "a", "supporting_titles": "b"}),
        (QuestionFields, {"supporting_titles": "b", "paragraph_title": None}),
        (ConversationFields, {}),
        (ConversationFields, {"turns": "t", "speaker": "s", "speakers": ["A"]}),
        (ConversationFields, {"turns": "t", "text": "x", "speakers": {"q": "A"}}),
        (ConversationFields, {"turns": "t", "evidence": "e"}),
        (ConversationFields, {"turns": "t", "turn_id": "i", "evidence": "e", "evidence_ranges": "r"}),
        (ConversationFields, {"turns": "t", "date": "d"}),
    ],
)
def test_mappings_that_contradict_themselves(kind: type, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        kind(**wrong)
