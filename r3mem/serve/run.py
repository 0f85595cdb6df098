"""A server that runs until it is told to end."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from collections.abc import Callable

import anyio
import uvicorn

from r3mem.errors import ConfigError
from r3mem.serve.app import LOOPBACK, make_app
from r3mem.serve.keys import Keys, OneUser
from r3mem.serve.limits import Limits
from r3mem.serve.served import Served
from r3mem.serve.tools import make_tools
from r3mem.store import AsyncMemoryStore, MemoryStore

#: How long requests that are being answered may take when the server is told to end.
LEAVING_SECONDS = 30


def serve_http(
    store: Callable[[], MemoryStore], keys: Keys, *, host: str = "127.0.0.1", port: int = 8000,
    limits: Limits | None = None,
) -> None:  # fmt: skip
    """Serve HTTP, with MCP at ``/mcp``, until the process is told to end.

    Args:
        store: Opens the store.
        keys: Whose a request is.
        host: The address that it listens at.
        port: The port; 0 for any that is free.
        limits: How much is taken in; None for the defaults.

    Raises:
        ConfigError: The address cannot be had, or is none of this machine alone and no keys are given.
    """
    if not keys.needed and not is_loopback(host):
        raise ConfigError(
            f"at {host} other machines could read and erase everything: give --keys FILE, or stay at 127.0.0.1"
        )
    app = make_app(store, keys, limits, hosts=(*LOOPBACK, host))
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=LEAVING_SECONDS,
        timeout_keep_alive=75,
        # Only a proxy on this machine is believed about whom it asks for.
        forwarded_allow_ips="127.0.0.1",
    )  # fmt: skip
    server = uvicorn.Server(config)
    with _listening(host, port) as listener:
        at = listener.getsockname()
        where = f"[{at[0]}]:{at[1]}" if ":" in at[0] else f"{at[0]}:{at[1]}"
        print(f"r3mem: http://{where} (interface: /docs, MCP: /mcp)", file=sys.stderr, flush=True)
        server.run(sockets=[listener])
    if not server.started:
        raise ConfigError("the server did not start: the lines above say why")


def serve_stdio(store: Callable[[], MemoryStore], user: str, limits: Limits | None = None) -> None:
    """Serve MCP on standard input and output, until the input ends.

    Args:
        store: Opens the store.
        user: Whose memories.
        limits: How much is taken in; None for the defaults.
    """
    one = OneUser(user)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)

    async def run() -> None:
        async with AsyncMemoryStore(store()) as opened:
            opened.store.start()
            served = Served(opened, limits or Limits())
            await make_tools(lambda: served, one.user).run_stdio_async()

    anyio.run(run)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    Args:
        host: The address, or a name: of names only ``localhost`` is believed.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{host}:{port} cannot be listened at ({error}): give another --port or --host") from error
