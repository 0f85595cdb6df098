"""Field mappings: where in a record a data set keeps what a data module needs. Written in YAML, one for each data set.

Every value is a dotted path, walked by the rule of ``record_text.py``: lists are walked, ``*`` is every key, ``a|b``
either, ``#`` a number inside a key, ``0`` the first element of a list. None stands for "the data set has none of it".
"""

from __future__ import annotations

from dataclasses import dataclass

from r3mem.errors import ConfigError


@dataclass(frozen=True)
class DocumentFields:
    """A record that is one document.

    Attributes:
        text: Strings of the document, those before its parts where it has parts; None without ``parts`` for the rule
            of ``record_text.py``.
        parts: Chapters or sections, in order.
        part_title: Heading of a part, inside a part; it begins the part's text.
        part_text: Strings of a part, inside a part.
        title: What the document is called; it does not become text.
        name: The document's id.
        separator: What stands between two strings of ``text`` or of one part; parts are blank lines apart.
        mentions: Marked entities, counted in characters of the one string that ``text`` leads to.
        mention_start: First character, inside a mention.
        mention_end: One past the last character, inside a mention.
        mention_kind: Type of the entity, inside a mention.
        entities: Names of entities, which are looked up in the text.
    """

    text: str | list[str] | None = None
    parts: str | None = None
    part_title: str | None = None
    part_text: str | list[str] | None = None
    title: str | None = None
    name: str | None = None
    separator: str = "\n\n"
    mentions: str | None = None
    mention_start: str = "start"
    mention_end: str = "end"
    mention_kind: str | None = None
    entities: str | None = None

    def __post_init__(self) -> None:
        if (self.parts is None) != (self.part_text is None):
            raise ConfigError("parts and part_text belong together: where the parts are, and the text inside one")
        if self.mentions is not None and (self.parts is not None or self.text is None):
            raise ConfigError("mentions count characters of one string: set text to it, and no parts")
        if self.mentions is not None and self.entities is not None:
            raise ConfigError("mentions says where entities stand, entities only which there are: set one of the two")


@dataclass(frozen=True)
class QuestionFields:
    """A record that is one question with its context paragraphs.

    Attributes:
        question: The question.
        answer: The gold answer; the first of several.
        paragraphs: The context paragraphs, in order.
        paragraph_title: Title of a paragraph, inside a paragraph; it becomes the paragraph's first line.
        paragraph_text: Strings of a paragraph, inside a paragraph.
        supporting: Whether a paragraph is needed for the answer, inside a paragraph.
        supporting_titles: Instead of ``supporting``: titles of the needed paragraphs, in the record; each a string, or
            a list that begins with it, such as ``[title, sentence]``.
        name: The question's id.
        separator: What stands between two strings of a paragraph.
    """

    question: str = "question"
    answer: str | None = "answer"
    paragraphs: str = "paragraphs"
    paragraph_title: str | None = "title"
    paragraph_text: str = "text"
    supporting: str | None = None
    supporting_titles: str | None = None
    name: str | None = None
    separator: str = " "

    def __post_init__(self) -> None:
        if (self.supporting is None) == (self.supporting_titles is None):
            raise ConfigError(
                "which paragraphs support the answer? Set supporting (a mark inside a paragraph) or "
                "supporting_titles (titles in the record), not both"
            )
        if self.supporting_titles is not None and self.paragraph_title is None:
            raise ConfigError("supporting_titles are compared with the paragraphs' titles: set paragraph_title")


@dataclass(frozen=True)
class ConversationFields:
    """A record that is one conversation.

    Attributes:
        turns: The turns, in order, inside a session; nested lists are flattened. None: the session is their list.
        text: What was said, inside a turn; None where a turn is a string, or where ``speakers`` names its fields.
        speaker: Who said it, inside a turn.
        speakers: Instead of ``speaker``: names taken in turn, or one name for each field of an entry that holds a turn
            of each (``{query: User, response: Assistant}``).
        sessions: Sessions or days, in order; None where the whole record is one.
        date: Date of a session: a path inside a session; ``*`` for the key that the ``*`` of ``sessions`` stood for;
            or a path in the record with the ``#`` of ``sessions`` (``conversation.session_#_date_time``).
        turn_id: Id of a turn, inside a turn, as ``evidence`` has it.
        questions: Questions about the conversation, in the record; each may be a string.
        question: The question, inside an entry of ``questions``.
        answer: The gold answer, in the same place.
        evidence: Ids of the turns that support the answer, in the same place; several may share a string.
        evidence_ranges: Instead of ``evidence``: pairs ``[first, last]`` of numbers of turns, counted from 0, the last
            one included.
        title: What the conversation is called; it does not become text.
        name: The conversation's id.
        separator: What stands between two turns. A blank line lets segmenters that look for blank lines find them.
    """

    turns: str | None = None
    text: str | None = None
    speaker: str | None = None
    speakers: list[str] | dict[str, str] | None = None
    sessions: str | None = None
    date: str | None = None
    turn_id: str | None = None
    questions: str | None = None
    question: str | None = "question"
    answer: str | None = "answer"
    evidence: str | None = None
    evidence_ranges: str | None = None
    title: str | None = None
    name: str | None = None
    separator: str = "\n\n"

    def __post_init__(self) -> None:
        if self.turns is None and self.sessions is None:
            raise ConfigError("where are the turns? Set turns, or sessions if each of them is a list of turns")
        if self.speaker is not None and self.speakers is not None:
            raise ConfigError("speaker is a path, speakers are names: set one of the two")
        if isinstance(self.speakers, dict) and (self.text is not None or self.turn_id is not None):
            raise ConfigError("speakers already names the fields that hold turns: leave text and turn_id out")
        if self.evidence is not None and self.evidence_ranges is not None:
            raise ConfigError("evidence is ids of turns, evidence_ranges pairs of numbers: set one of the two")
        if self.evidence is not None and self.turn_id is None:
            raise ConfigError("evidence names turns by their ids: set turn_id")
        if self.date is not None and self.sessions is None:
            raise ConfigError("date is that of a session: set sessions")
