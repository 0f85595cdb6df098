"""Files of keys."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from r3mem.errors import ConfigError, InputError
from r3mem.serve import KeyFile, KeyRing, OneUser, add_key

HEX = "0" * 64


@pytest.mark.parametrize(
    "user", ["ann", " user3 ", '"quoted"', "../user2", "two words", "漢字", "#1", "a" * 256, "sha256:" + HEX]
)
def test_a_key_stands_for_exactly_the_user_it_was_made_for(tmp_path: Path, user: str) -> None:
    file = tmp_path / "keys"
    keys = [add_key(file, "other"), add_key(file, user), add_key(file, user)]
    assert len(set(keys)) == 3 and all(len(key) > 40 for key in keys)
    assert [KeyFile(file).user_of(key) for key in keys] == ["other", user, user]
    for wrong in (keys[1][:-1], keys[1] + "x", keys[1].upper(), "", None):
        assert KeyFile(file).user_of(wrong) is None
    told = file.read_text()
    assert not any(key in told or key[6:] in told for key in keys)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("user", ["", "a\nb", "a\0", "a" * 257])
def test_what_cannot_be_a_user_gets_no_key(tmp_path: Path, user: str) -> None:
    with pytest.raises(InputError):
        add_key(tmp_path / "keys", user)
    with pytest.raises(InputError):
        OneUser(user)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no key"),
        ("# a comment\n\n", "has no key"),
        ("ann plain-key", "line 1: a line is"),
        (f"# one\nsha256:{HEX[1:]} ann", "line 2: a line is"),
        (f"sha256:{HEX.replace('0', 'A')} ann", "line 1: a line is"),
        (f"sha256:{HEX}", "line 1: a line is"),
        (f"sha256:{HEX} ann ", "blanks around the name"),
        (f"sha256:{HEX}  ann", "blanks around the name"),
        (f'sha256:{HEX} "ann', "line 1: "),
        (f'sha256:{HEX} ""', "user is empty"),
        (f"sha256:{HEX} a\tb", "control character"),
        (f"sha256:{HEX} ann\nsha256:{HEX} bob", "line 2: this key stands there twice"),
    ],
)
def test_a_line_that_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as told:
        KeyRing(text, "R3MEM_KEYS")
    assert str(told.value).startswith("R3MEM_KEYS")


def test_a_file_that_is_not_there_or_that_everybody_may_change(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with pytest.raises(ConfigError, match="cannot be read"):
        KeyFile(file)
    add_key(file, "ann")
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod 600"):
        KeyFile(file)
    with pytest.raises(ConfigError, match="cannot be written"):
        add_key(tmp_path / "none" / "keys", "ann")


def test_a_line_without_an_end_is_ended_first(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"sha256:{HEX} ann")
    key = add_key(file, "bob")
    assert KeyFile(file).user_of(key) == "bob" and len(file.read_text().splitlines()) == 2
