"""Options that commands share, and the store that they open."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r3mem.errors import InputError, StoreError
from r3mem.store.scope import Scope

if TYPE_CHECKING:
    from r3mem.store import MemoryStore, Policies


def add_scope(p: argparse.ArgumentParser, narrow: bool = True, user: bool = True) -> None:
    """Where, whose and how it is told.

    Args:
        p: The parser of a command.
        narrow: Whether it can be about one agent or one session.
        user: Whether it is about a user.
    """
    group = p.add_argument_group("where and whose")
    group.add_argument(
        "--store", default=os.environ.get("R3MEM_STORE") or None, metavar="URL",
        help="a path, sqlite:///FILE or postgresql+psycopg://HOST/DATABASE; if left out, R3MEM_STORE, else "
        "r3mem/memory.db in the user's data folder",
    )  # fmt: skip
    if user:
        group.add_argument(
            "--user", default=os.environ.get("R3MEM_USER") or None, metavar="NAME",
            help="whose memories; required, here or as R3MEM_USER",
        )  # fmt: skip
    if narrow:
        group.add_argument("--agent", metavar="NAME", help="only this agent's; what is remembered becomes this agent's")
        group.add_argument("--session", metavar="NAME", help="only this session's; likewise")
    group.add_argument("--json", action="store_true", help="print one JSON document")


def add_model(p: argparse.ArgumentParser) -> None:
    """What compresses and recalls.

    Args:
        p: The parser of a command.
    """
    group = p.add_argument_group("model")
    group.add_argument(
        "--model", default=os.environ.get("R3MEM_MODEL") or None, metavar="NAME",
        help="what compresses and recalls: a folder, a hub id or r3mem:smollm2-135m; if left out, R3MEM_MODEL, else "
        "the default. Memories are recalled by the model that made them. It is loaded only if it is needed",
    )  # fmt: skip


def add_compression(p: argparse.ArgumentParser) -> None:
    """When it compresses.

    Args:
        p: The parser of a command.
    """
    add_model(p)
    p.add_argument("--wait", action="store_true", help="end only when nothing is pending: compress now")
    p.add_argument("--keep-text", action="store_true", help="with --wait: keep the raw text beside the virtual tokens")


def add_policies(p: argparse.ArgumentParser) -> None:
    """Which policies the store has.

    Args:
        p: The parser of a command.
    """
    p.add_argument(
        "--policies", type=Path, default=os.environ.get("R3MEM_POLICIES") or None, metavar="FILE",
        help="YAML: indexing, consolidation, updating, forgetting, each by class_path; if left out, R3MEM_POLICIES, "
        "else the defaults",
    )  # fmt: skip


def policies_in(file: Path) -> Policies:
    """The policies of a file.

    Args:
        file: YAML.

    Raises:
        InputError: It cannot be read.
        ConfigError: There is no such policy.
    """
    import yaml

    from r3mem.store import Policies

    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{file} is no YAML that could be read ({why:.200}): check its name and content") from error
    if not isinstance(told, dict):
        raise InputError(f"{file} names no policies: give `indexing:` or another, with class_path below it")
    return Policies.of(told)


def scope_of(args: argparse.Namespace) -> Scope:
    """Whose memories a command is about.

    Args:
        args: Of the command.

    Raises:
        InputError: A name that is not possible.
    """
    if args.user is None:
        args.parser.error("whose memories? Give --user NAME, or set R3MEM_USER")
    return Scope.of(args.user, getattr(args, "agent", None), getattr(args, "session", None))


def whose(scope: Scope) -> dict[str, Any]:
    """The same as arguments of a verb.

    Args:
        scope: The scope.
    """
    return {"user": scope.user, "agent": scope.agent, "session": scope.session}


@contextmanager
def opened(args: argparse.Namespace, make: bool = False) -> Iterator[MemoryStore]:
    """The store of a command, open.

    Args:
        args: Of the command.
        make: Whether a new one is made where there is none.

    Raises:
        InputError: The path or the URL is not possible.
        StoreError: There is none, or it cannot be opened.
    """
    url = args.store or str(default_store())
    file = file_of(url)
    if file is not None:
        try:
            there = file.exists()
            if make and args.store is None:
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise StoreError(f"the store {file} cannot be reached ({why}): check its path and rights") from error
        if not there and not make:
            raise StoreError(f"there is no store at {file} yet: r3mem remember makes one, or give --store")
    # Reading files, searching and listing must not wait for SQLAlchemy's import where only help was asked for.
    from r3mem.store import MemoryStore

    file_of_policies = getattr(args, "policies", None)
    policies = None if file_of_policies is None else policies_in(Path(file_of_policies))
    with MemoryStore.open(
        url, policies=policies, model=getattr(args, "model", None), blobs=getattr(args, "blobs", None),
        keep_text=getattr(args, "keep_text", False), compress="later",
    ) as store:  # fmt: skip
        yield store


def default_store() -> Path:
    """The file of the store where none is given."""
    import platformdirs

    return Path(platformdirs.user_data_dir("r3mem", appauthor=False)) / "memory.db"


def file_of(url: str) -> Path | None:
    """The file of a store in SQLite, or None.

    Args:
        url: Its path or URL.

    Raises:
        InputError: It is empty.
    """
    if not url:
        raise InputError("the path of the store is empty: give --store FILE, or leave it out")
    if "://" not in url:
        return Path(url).expanduser()
    kind, _, rest = url.partition("://")
    path = rest.partition("?")[0].removeprefix("/")
    return Path(path).expanduser() if kind.startswith("sqlite") and path not in ("", ":memory:") else None


def confirm(question: str, yes: bool) -> None:
    """Ask before what cannot be undone.

    Args:
        question: What is asked.
        yes: The answer was given with the command.

    Raises:
        InputError: The answer is no, or there is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{question} There is nobody to ask here: give --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("nothing was done")
