"""The tables, one schema for SQLite and PostgreSQL. Text is bytes of UTF-8: PostgreSQL's text holds no zero character.

::

    entries  ---- current text ----> contents <--- virtual tokens --- blobs
       |                               ^    ^
       '--- versions --- each text ----'    '--- pending --- jobs

A content belongs to one user: equal texts of a user are one content, those of two users are two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

#: Of the newest migration.
SCHEMA_VERSION = 1
#: With it the name of every table begins.
PREFIX = "r3mem_"
_NUMBER = BigInteger().with_variant(Integer, "sqlite")

tables = MetaData()

#: What the store knows of itself, JSON by name.
meta = Table("r3mem_meta", tables, Column("name", String(64), primary_key=True), Column("value", Text, nullable=False))

contents = Table(
    "r3mem_contents",
    tables,
    Column("n", _NUMBER, primary_key=True, autoincrement=True),
    Column("owner", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("n_words", Integer, nullable=False),
    Column("state", String(8), nullable=False),
    Column("error", Text),
    Column("tokens", BigInteger, nullable=False, default=0),
    Column("positions", BigInteger, nullable=False, default=0),
    # Text tokens per virtual token where it is not the model's own.
    Column("ratio", Integer),
    # Which model wrote the virtual tokens.
    Column("model", String(64)),
    # The text is a slice of a coarser memory's, in bytes.
    Column("within", _NUMBER, ForeignKey("r3mem_contents.n")),
    Column("within_start", BigInteger),
    Column("within_end", BigInteger),
    # Long columns last: SQLite reads over them to what comes behind.
    # The words that are indexed, in the order of the alphabet: with them they are taken out of the index.
    Column("words", Text, nullable=False),
    # The raw text: while compression is pending, where it failed, and where texts are kept.
    Column("raw", LargeBinary),
    UniqueConstraint("owner", "digest", name="r3mem_contents_text"),
    Index("r3mem_contents_within", "within"),
    sqlite_autoincrement=True,
)

entries = Table(
    "r3mem_entries",
    tables,
    Column("id", String(32), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("agent", Text),
    Column("session", Text),
    Column("kind", String(8), nullable=False),
    Column("turns", Text),
    Column("source", Text),
    Column("start_at", BigInteger, nullable=False),
    Column("end_at", BigInteger, nullable=False),
    # Microseconds since 1970, UTC.
    Column("time", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("content", _NUMBER, ForeignKey("r3mem_contents.n"), nullable=False),
    Column("superseded_by", String(32)),
    Column("part_of", String(32)),
    Column("part_number", Integer),
    Column("consolidated", Boolean, nullable=False, default=False),
    # The name that an entry had in the store it was exported from.
    Column("imported_as", String(64)),
    Index("r3mem_entries_order", "owner", "created", "id"),
    Index("r3mem_entries_content", "content"),
    Index("r3mem_entries_part_of", "part_of"),
)

versions = Table(
    "r3mem_versions",
    tables,
    Column("entry", String(32), ForeignKey("r3mem_entries.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("content", _NUMBER, ForeignKey("r3mem_contents.n"), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("turns", Text),
    Column("time", BigInteger, nullable=False),
    Column("why", String(64), nullable=False),
    Index("r3mem_versions_content", "content"),
)

blobs = Table(
    "r3mem_blobs",
    tables,
    Column("content", _NUMBER, ForeignKey("r3mem_contents.n"), primary_key=True),
    Column("data", LargeBinary),
    # Where it is, of what is kept outside the database.
    Column("place", Text),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
)

jobs = Table(
    "r3mem_jobs",
    tables,
    Column("content", _NUMBER, ForeignKey("r3mem_contents.n"), primary_key=True),
    Column("queued", BigInteger, nullable=False),
    # Who is at it, and until when nobody else takes it.
    Column("worker", String(64)),
    Column("until", BigInteger, nullable=False, default=0),
    Column("attempts", Integer, nullable=False, default=0),
    Index("r3mem_jobs_queue", "until", "queued"),
)

#: Files outside the database that no memory has yet, or no longer: to be removed.
loose = Table(
    "r3mem_loose",
    tables,
    Column("place", Text, primary_key=True),
    Column("since", BigInteger, nullable=False),
)
