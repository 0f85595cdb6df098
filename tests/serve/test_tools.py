"""The tools by a real client of the protocol: over a process's standard input and output, and over HTTP."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client.session import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from r3mem.store import MemoryStore
from tests.serve.running import Running

TEXT = "The dog of Ann is called Rex.\n\n漢字"


async def _said(client: ClientSession, tool: str, /, **given: Any) -> Any:
    got = await client.call_tool(tool, given)
    return got.structured_content if not got.is_error else got.content[0].text  # type: ignore[union-attr]


async def _whole_life(session: ClientSession) -> None:
    await session.initialize()
    tools = {tool.name: tool for tool in (await session.list_tools()).tools}
    assert set(tools) == {"remember", "search", "recall", "forget"}
    assert "user" not in str([tool.input_schema for tool in tools.values()])
    made = await _said(session, "remember", text=TEXT, session="s")
    (found,) = (await _said(session, "search", query="dog"))["memories"]
    assert found["id"] == made["id"] and found["text"] == TEXT
    assert await _said(session, "recall", id=made["id"]) == {"text": TEXT, "next": None}
    long = "word " * 5_000
    other = await _said(session, "remember", text=long)
    first = await _said(session, "recall", id=other["id"])
    rest = await _said(session, "recall", id=other["id"], start=first["next"])
    assert first["text"] + rest["text"] == long and rest["next"] is None
    assert "is not there" in await _said(session, "recall", id="0" * 32)
    assert "empty" in await _said(session, "remember", text="")
    assert await _said(session, "forget", id=made["id"]) == {"forgotten": 1}
    assert "is not there" in await _said(session, "forget", id=made["id"])
    assert (await _said(session, "search", query="dog"))["memories"] == []


def test_a_client_over_standard_input_and_output(tmp_path: Path, backbone_folder: Path) -> None:
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    arguments = ["-m", "lightning_modules.command", "serve", "--mcp", "--user", "ann", "--store", url]
    started = StdioServerParameters(
        command=sys.executable, args=[*arguments, "--model", str(backbone_folder)],
        env={"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}, cwd=os.getcwd(),
    )  # fmt: skip

    async def run() -> None:
        async with stdio_client(started) as (read, write), ClientSession(read, write) as session:
            await _whole_life(session)

    anyio.run(run)
    with MemoryStore.open(url, compress="later") as store:
        assert store.stats().users == 1 and store.list(user="ann").total == 1


@pytest.mark.parametrize("key", ["key-of-ann", "key-of-bob"])
def test_a_client_over_http_is_the_user_of_its_key(quiet: Running, key: str) -> None:
    hers = quiet.store.add("the dog of somebody else", user="ann1").id

    async def run() -> None:
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            streamable_http_client(f"{quiet.url}/mcp", http_client=http) as (read, write, *_),
            ClientSession(read, write) as session,
        ):
            await _whole_life(session)
            assert "is not there" in await _said(session, "recall", id=hers)
            assert "is not there" in await _said(session, "forget", id=hers)

    anyio.run(run)
    assert quiet.store.recall(hers, user="ann1") == "the dog of somebody else"
    assert quiet.store.list(user={"key-of-ann": "ann", "key-of-bob": "bob"}[key]).total == 1
