"""Full-text indexes of the words of contents. The text is not in them, nor the order of its words.

Scores are BM25 with every word counted once a content. Its rarity is counted among the contents of the user: what
others keep changes no score. The words of a content are kept beside it, sorted: with them they are taken out again,
without a model. Beside its words a content has a sign of its owner, so that a search looks at one user's contents only.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, exc, text

#: Different words of a query that count.
MOST_WORDS = 64
#: BM25's, of Robertson & Zaragoza 2009; FTS5 has the same.
K1, B = 1.2, 0.75


def owner_sign(owner: str) -> str:
    """A word that stands for a user.

    Args:
        owner: The user.
    """
    return "u" + hashlib.sha256(owner.encode()).hexdigest()[:24]


class WordIndex(ABC):
    """What SQLite and PostgreSQL do each in their way."""

    @abstractmethod
    def create(self, connection: Connection) -> None:
        """Make what the index needs."""

    @abstractmethod
    def add(self, connection: Connection, owner: str, words: Mapping[int, str]) -> None:
        """Index the words of contents of a user, by their numbers; they are in their rows already."""

    @abstractmethod
    def remove(self, connection: Connection, content: int, owner: str, words: str) -> None:
        """Take them out again, with those that were given to :meth:`add`."""

    @abstractmethod
    def search(
        self, connection: Connection, words: Sequence[str], owner: str, agent: str | None, session: str | None, k: int
    ) -> list[tuple[str, float]]:
        """Ids of current entries with any of the words, best first, and their scores."""

    @abstractmethod
    def renew(self, connection: Connection) -> None:
        """Make an empty index in place of the one that is there, whatever its state; nobody else writes meanwhile."""

    @abstractmethod
    def check(self, connection: Connection) -> None:
        """Let the database look at the index itself.

        Raises:
            DBAPIError: It is damaged.
        """

    @abstractmethod
    def signs(self, connection: Connection) -> dict[int, int]:
        """What the index holds of each content, as a number that is equal where the words are; of this process only."""

    @abstractmethod
    def signs_of(self, connection: Connection, words: Mapping[int, tuple[str, str]]) -> dict[int, int]:
        """The same number of owners and words as they are kept beside contents: what the index should hold."""


#: Entries that are looked at: current texts of the scope, none that another has
#: superseded, and coarser memories instead of their parts.
_SCOPE = """e.owner = :owner AND (CAST(:agent AS TEXT) IS NULL OR e.agent = :agent)
    AND (CAST(:session AS TEXT) IS NULL OR e.session = :session) AND e.superseded_by IS NULL
    AND e.part_of IS NULL"""


class Fts5(WordIndex):
    """SQLite's FTS5, with Porter's stems, and without a copy of what is indexed."""

    OPTIMIZE = "INSERT INTO r3mem_words(r3mem_words) VALUES ('optimize')"

    def create(self, connection: Connection) -> None:
        """See :class:`WordIndex`."""
        connection.exec_driver_sql(
            "CREATE VIRTUAL TABLE r3mem_words USING fts5(sign, words, content='', tokenize='porter ascii')"
        )

    def add(self, connection: Connection, owner: str, words: Mapping[int, str]) -> None:
        """See :class:`WordIndex`."""
        sign = owner_sign(owner)
        connection.execute(
            text("INSERT INTO r3mem_words(rowid, sign, words) VALUES (:n, :sign, :words)"),
            [{"n": n, "sign": sign, "words": _in_ascii(told)} for n, told in sorted(words.items())],
        )

    def remove(self, connection: Connection, content: int, owner: str, words: str) -> None:
        """See :class:`WordIndex`."""
        connection.execute(
            text("INSERT INTO r3mem_words(r3mem_words, rowid, sign, words) VALUES ('delete', :n, :sign, :words)"),
            {"n": content, "sign": owner_sign(owner), "words": _in_ascii(words)},
        )

    def search(
        self, connection: Connection, words: Sequence[str], owner: str, agent: str | None, session: str | None, k: int
    ) -> list[tuple[str, float]]:
        """See :class:`WordIndex`."""
        terms = list(dict.fromkeys(words))[:MOST_WORDS]
        given: dict[str, Any] = {"owner": owner, "agent": agent, "session": session, "k": k, "k1": K1, "b": B}
        given |= {f"q{i}": f'sign:"{owner_sign(owner)}" AND words:"{_in_ascii(word)}"' for i, word in enumerate(terms)}
        of_term = "FROM r3mem_words WHERE r3mem_words MATCH :q{0}"
        counts = ", ".join(f"(SELECT count(*) {of_term.format(i)})" for i in range(len(terms)))
        total = "(SELECT count(*) FROM r3mem_contents WHERE owner = :owner)"
        n, *found = connection.execute(text(f"SELECT {total}, {counts}"), given).one()
        given |= {f"s{i}": math.log(1 + (n - count + 0.5) / (count + 0.5)) for i, count in enumerate(found)}
        each = " UNION ALL ".join(f"SELECT rowid AS n, :s{i} AS share {of_term.format(i)}" for i in range(len(terms)))
        rows = connection.execute(
            text(
                f"""WITH h AS (SELECT n, sum(share) AS share FROM ({each}) GROUP BY n),
                f AS (SELECT h.n, h.share, c.n_words, avg(c.n_words) OVER () AS mean
                    FROM h JOIN r3mem_contents c ON c.n = h.n)
                SELECT e.id, f.share * (:k1 + 1) / (1 + :k1 * (1 - :b + :b * f.n_words / max(f.mean, 1))) AS score
                FROM f JOIN r3mem_entries e ON e.content = f.n WHERE {_SCOPE}
                ORDER BY score DESC, e.created DESC, e.id LIMIT :k"""
            ),
            given,
        )
        return [(str(row[0]), float(row[1])) for row in rows]

    def renew(self, connection: Connection) -> None:
        """See :class:`WordIndex`. What FTS5 cannot even open gets the inside of an empty index before it goes."""
        try:
            connection.exec_driver_sql("DROP TABLE IF EXISTS r3mem_words")
        except exc.DBAPIError:
            connection.exec_driver_sql("CREATE VIRTUAL TABLE r3mem_empty USING fts5(sign, words, content='')")
            for part in ("data", "idx", "docsize", "config"):
                connection.exec_driver_sql(f"DELETE FROM r3mem_words_{part}")
                connection.exec_driver_sql(f"INSERT INTO r3mem_words_{part} SELECT * FROM r3mem_empty_{part}")
            connection.exec_driver_sql("DROP TABLE r3mem_empty")
            connection.exec_driver_sql("DROP TABLE r3mem_words")
        self.create(connection)

    def check(self, connection: Connection) -> None:
        """See :class:`WordIndex`. Its tree is read; without a copy of the words it cannot be compared with them."""
        connection.exec_driver_sql("INSERT INTO r3mem_words(r3mem_words) VALUES ('integrity-check')")

    def signs(self, connection: Connection) -> dict[int, int]:
        """See :class:`WordIndex`."""
        # What is made in the temporary schema lies in memory, and goes with the transaction of a reader.
        connection.exec_driver_sql("CREATE VIRTUAL TABLE temp.r3mem_held USING fts5vocab(main, r3mem_words, instance)")
        return _summed(connection, "r3mem_held")

    def signs_of(self, connection: Connection, words: Mapping[int, tuple[str, str]]) -> dict[int, int]:
        """See :class:`WordIndex`. Only FTS5 knows its stems: the words go through a small index of their own."""
        for statement in (
            "DROP TABLE IF EXISTS temp.r3mem_kept",
            "DROP TABLE IF EXISTS temp.r3mem_fresh",
            "CREATE VIRTUAL TABLE temp.r3mem_fresh USING fts5(sign, words, content='', tokenize='porter ascii')",
            "CREATE VIRTUAL TABLE temp.r3mem_kept USING fts5vocab(temp, r3mem_fresh, instance)",
        ):
            connection.exec_driver_sql(statement)
        connection.execute(
            text("INSERT INTO temp.r3mem_fresh(rowid, sign, words) VALUES (:n, :sign, :words)"),
            [{"n": n, "sign": owner_sign(who), "words": _in_ascii(told)} for n, (who, told) in words.items()],
        )
        return _summed(connection, "r3mem_kept")


def _summed(connection: Connection, vocabulary: str) -> dict[int, int]:
    """By content the sum of signs of its words, each with its place."""
    sums = dict[int, int]()
    asked = text(f'SELECT doc, term, col, "offset" FROM temp.{vocabulary}')
    rows = connection.execute(asked, execution_options={"yield_per": 10_000})
    for n, *word in rows:
        sums[n] = sums.get(n, 0) + hash(tuple(word))
    return sums


def _in_ascii(words: str) -> str:
    """Words as FTS5 has them: it knows the letters of an old Unicode alone, so that others are spelled in digits."""
    return " ".join(word if word.isascii() else f"x{word.encode().hex()}" for word in words.split())


INDEX = "CREATE INDEX r3mem_contents_lexemes ON r3mem_contents USING gin (lexemes) WITH (fastupdate = off)"


class Tsvector(WordIndex):
    """PostgreSQL's tsvector under a GIN index, with English stems; stop words are words."""

    def create(self, connection: Connection) -> None:
        """See :class:`WordIndex`."""
        for statement in (
            "ALTER TABLE r3mem_contents ADD COLUMN lexemes tsvector",
            INDEX,
            # Statistics would keep the most common words of what was deleted.
            "ALTER TABLE r3mem_contents ALTER COLUMN lexemes SET STATISTICS 0",
            "ALTER TABLE r3mem_contents ALTER COLUMN words SET STATISTICS 0",
            "ALTER TABLE r3mem_contents ALTER COLUMN raw SET STATISTICS 0",
            "ALTER TABLE r3mem_contents ALTER COLUMN digest SET STATISTICS 0",
            "ALTER TABLE r3mem_entries ALTER COLUMN source SET STATISTICS 0",
            "ALTER TABLE r3mem_entries ALTER COLUMN metadata SET STATISTICS 0",
            "ALTER TABLE r3mem_entries ALTER COLUMN turns SET STATISTICS 0",
            "ALTER TABLE r3mem_versions ALTER COLUMN turns SET STATISTICS 0",
        ):
            connection.exec_driver_sql(statement)

    def add(self, connection: Connection, owner: str, words: Mapping[int, str]) -> None:
        """See :class:`WordIndex`."""
        of = {n: set(told.split()) for n, told in words.items()}
        stems, sign = _lexemes(connection, sorted(set[str]().union(*of.values()))), owner_sign(owner)
        # No word holds a blank.
        lines = [" ".join([sign, *sorted({stems[word] for word in mine})]) for mine in of.values()]
        connection.execute(
            text(
                """UPDATE r3mem_contents AS c SET lexemes = array_to_tsvector(string_to_array(v.line, ' '))
                FROM unnest(CAST(:numbers AS bigint[]), CAST(:lines AS text[])) AS v(n, line) WHERE c.n = v.n"""
            ),
            {"numbers": list(of), "lines": lines},
        )

    def remove(self, connection: Connection, content: int, owner: str, words: str) -> None:
        """See :class:`WordIndex`. They go with the row of the content."""

    def search(
        self, connection: Connection, words: Sequence[str], owner: str, agent: str | None, session: str | None, k: int
    ) -> list[tuple[str, float]]:
        """See :class:`WordIndex`."""
        lexemes = sorted(set(_lexemes(connection, list(dict.fromkeys(words))[:MOST_WORDS]).values()))
        given: dict[str, Any] = {"owner": owner, "agent": agent, "session": session, "k": k, "k1": K1, "b": B}
        given |= {f"w{i}": f"'{word}'" for i, word in enumerate(lexemes)}
        given["asked"] = f"'{owner_sign(owner)}' & ({' | '.join(chr(39) + word + chr(39) for word in lexemes)})"
        counts = ", ".join(
            f"count(*) FILTER (WHERE lexemes @@ CAST(:w{i} AS tsquery)) AS d{i}" for i in range(len(lexemes))
        )
        shares = " + ".join(
            f"CASE WHEN f.lexemes @@ CAST(:w{i} AS tsquery) "
            f"THEN ln(1 + (u.n - c.d{i} + 0.5) / (c.d{i} + 0.5)) ELSE 0 END"
            for i in range(len(lexemes))
        )
        rows = connection.execute(
            text(
                f"""WITH f AS MATERIALIZED (SELECT n, n_words, lexemes FROM r3mem_contents
                    WHERE owner = :owner AND lexemes @@ CAST(:asked AS tsquery)),
                u AS (SELECT count(*) AS n FROM r3mem_contents WHERE owner = :owner),
                c AS (SELECT {counts}, avg(n_words) AS mean FROM f)
                SELECT e.id, ({shares}) * (:k1 + 1) / (1 + :k1 * (1 - :b + :b * f.n_words / greatest(c.mean, 1)))
                    AS score FROM f CROSS JOIN u CROSS JOIN c JOIN r3mem_entries e ON e.content = f.n WHERE {_SCOPE}
                ORDER BY score DESC, e.created DESC, e.id LIMIT :k"""
            ),
            given,
        )
        return [(str(row[0]), float(row[1])) for row in rows]

    def renew(self, connection: Connection) -> None:
        """See :class:`WordIndex`."""
        for statement in (
            "LOCK TABLE r3mem_contents IN SHARE ROW EXCLUSIVE MODE",
            "DROP INDEX IF EXISTS r3mem_contents_lexemes",
            "ALTER TABLE r3mem_contents ADD COLUMN IF NOT EXISTS lexemes tsvector",
            "UPDATE r3mem_contents SET lexemes = NULL",
            INDEX,
        ):
            connection.exec_driver_sql(statement)

    def check(self, connection: Connection) -> None:
        """See :class:`WordIndex`. The server looks after its files; here an index that is gone is found."""
        connection.exec_driver_sql("SELECT CAST('r3mem_contents_lexemes' AS regclass)")

    def signs(self, connection: Connection) -> dict[int, int]:
        """See :class:`WordIndex`."""
        asked = text("SELECT n, tsvector_to_array(lexemes) FROM r3mem_contents WHERE lexemes IS NOT NULL")
        rows = connection.execute(asked, execution_options={"yield_per": 1_000})
        return {row[0]: sum(map(hash, row[1])) for row in rows}

    def signs_of(self, connection: Connection, words: Mapping[int, tuple[str, str]]) -> dict[int, int]:
        """See :class:`WordIndex`."""
        of = {n: set(told.split()) for n, (_, told) in words.items()}
        stems = _lexemes(connection, sorted(set[str]().union(*of.values())))
        return {n: sum(map(hash, {owner_sign(words[n][0]), *(stems[word] for word in mine)})) for n, mine in of.items()}


def _lexemes(connection: Connection, words: Sequence[str]) -> dict[str, str]:
    """The stem of each word, as PostgreSQL has it; a stop word is its own."""
    rows = connection.execute(
        text("SELECT w, coalesce((ts_lexize('english_stem', w))[1], w) FROM unnest(CAST(:words AS text[])) AS w"),
        {"words": list(words)},
    )
    return {str(row[0]): str(row[1]) for row in rows}
