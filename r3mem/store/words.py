"""The words of a text, as they are indexed: letters, marks and digits, without case and accents.

Signs of Chinese, Japanese and Thai are words one by one, since nothing stands between their words.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache

#: Characters of a word at most; what is longer is no word, and PostgreSQL takes none beyond 2 KB.
LONGEST = 100
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)


@cache
def _pattern() -> re.Pattern[str]:
    # A mark belongs to its letter; Python's \w leaves them out.
    last = min(sys.maxunicode, 0x1FFFF)
    marks = "".join(chr(i) for i in range(0x300, last) if unicodedata.category(chr(i)) in ("Mn", "Mc"))
    return re.compile(rf"[{_ALONE}]|(?:(?![{_ALONE}])[^\W_])(?:(?![{_ALONE}])(?:[^\W_]|[{marks}]))*")


def words_of(text: str) -> list[str]:
    """Words in the order of the text, as often as they stand there.

    Args:
        text: Any text.
    """
    # Accents of Latin, Greek and Cyrillic letters do not count; marks of other scripts do.
    plain = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text))
    folded = unicodedata.normalize("NFKC", plain).casefold()
    return [word[:LONGEST] for word in _pattern().findall(folded)]
