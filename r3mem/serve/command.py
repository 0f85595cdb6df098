"""``r3mem serve``: the store over HTTP and MCP."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from r3mem.errors import ConfigError, told_in_a_line
from r3mem.serve.keys import VARIABLE, KeyFile, KeyRing, Keys, OneUser, add_key
from r3mem.serve.limits import MIB, Limits


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Instead of the process's own.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    with told_in_a_line():
        if given.new_key is not None:
            if given.keys is None:
                raise ConfigError("where is the key to be kept? Give --keys FILE")
            key = add_key(given.keys, given.new_key)
            print(key)
            print(f"r3mem: the key of {given.new_key}, shown this once; its hash is in {given.keys}", file=sys.stderr)
            return
        if given.store is None:
            raise ConfigError("what is to be served? Give --store sqlite:///FILE or a PostgreSQL URL")
        _serve(given)


def _serve(given: argparse.Namespace) -> None:
    from r3mem import serve

    limits = Limits(
        body_bytes=given.max_body * MIB, upload_bytes=given.max_upload * MIB, queue=given.queue
    )  # fmt: skip

    def store() -> Any:
        from r3mem.store import MemoryStore

        return MemoryStore.open(given.store, model=given.model, blobs=given.blobs, keep_text=given.keep_text)

    # Ended like this the store is closed as it should be.
    signal.signal(signal.SIGTERM, _end)
    try:
        if given.mcp:
            if given.user is None:
                raise ConfigError("whose memories are they? Give --user NAME")
            serve.serve_stdio(store, given.user, limits)
        else:
            serve.serve_http(store, _keys(given), host=given.host, port=given.port, limits=limits)
    except KeyboardInterrupt:
        return


def _keys(given: argparse.Namespace) -> Keys:
    """Whose requests are.

    Raises:
        ConfigError: Nothing or too much says so.
    """
    told = os.environ.get(VARIABLE)
    if given.user is not None and (given.keys is not None or told is not None):
        raise ConfigError(f"give --user, or keys (--keys, {VARIABLE}), not both: with keys each has a user")
    if given.keys is not None and told is not None:
        raise ConfigError(f"keys are in {given.keys} and in {VARIABLE}: give them in one place")
    if given.keys is not None:
        return KeyFile(given.keys)
    if told is not None:
        return KeyRing(told, VARIABLE)
    if given.user is None:
        raise ConfigError(
            "who may ask? Give --keys FILE (made by --new-key USER), or --user NAME for this machine alone"
        )
    return OneUser(given.user)


def _end(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="r3mem serve",
        description="The memory store over HTTP with MCP at /mcp, or MCP on standard input and output.",
    )
    parser.add_argument("--store", metavar="URL", help="sqlite:///FILE, a path, or postgresql+psycopg://HOST/DATABASE")
    parser.add_argument("--keys", metavar="FILE", help=f"API keys and their users; or the lines in {VARIABLE}")
    parser.add_argument("--new-key", metavar="USER", help="make a key, print it, write its hash to --keys, and end")
    parser.add_argument("--user", metavar="NAME", help="whose memories, where there are no keys")
    parser.add_argument("--mcp", action="store_true", help="MCP on standard input and output, for --user")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; others than 127.0.0.1 need keys")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at (%(default)s; 0: any)")
    parser.add_argument("--model", metavar="NAME", help="a folder or hub id; the default is r3mem:smollm2-135m")
    parser.add_argument("--blobs", metavar="URL", help="where virtual tokens are kept, if not inside the database")
    parser.add_argument("--keep-text", action="store_true", help="keep raw texts too: quick recall, without a model")
    parser.add_argument("--max-body", type=int, default=4, metavar="MIB", help="of a request (%(default)s)")
    parser.add_argument("--max-upload", type=int, default=64, metavar="MIB", help="of a file (%(default)s)")
    parser.add_argument("--queue", type=int, default=64, metavar="N", help="requests that may wait (%(default)s)")
    return parser


if __name__ == "__main__":
    main()
