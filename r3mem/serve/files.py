"""Files that come in and go out: uploads as they arrive, exports as they are read."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

import anyio
from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from r3mem.errors import InputError
from r3mem.serve import bodies
from r3mem.serve.failures import DOCUMENTED
from r3mem.serve.guards import told_too_large
from r3mem.serve.routes import Of, User
from r3mem.serve.served import Served
from r3mem.store import Entry
from r3mem.store.pieces import text_pieces

files = APIRouter(prefix="/v1", responses=DOCUMENTED, dependencies=[Depends(HTTPBearer(auto_error=False))])
#: Fields of the form beside the file.
FIELDS = ("agent", "session", "source", "time", "metadata", "characters")
_TEXT = {"type": "string"}
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "A text in UTF-8."},
                        **{name: _TEXT for name in FIELDS},
                        "metadata": {"type": "string", "description": "JSON."},
                        "characters": {"type": "integer", "description": "Characters of an entry at most."},
                    },
                }
            }
        },
    }
}


@files.post("/files", status_code=201, response_model=bodies.Added, openapi_extra=FORM, tags=["write"])
async def add_file(request: Request, user: User, served: Of) -> Response:
    """Keep a text file, character for character, as entries of bounded size; all of them or none.

    What arrives goes to a file without a name. The store is asked when all of it is there: a client that is slow
    holds up nobody, and one that breaks off leaves nothing.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(415, "send the file as a form: curl -F file=@notes.txt")
    entries = await served.uploads.run(lambda: _received(request, user, served))
    return JSONResponse({"entries": [entry.plain() for entry in entries]}, 201)


async def _received(request: Request, user: str, served: Served) -> list[Entry]:
    try:
        with anyio.fail_after(served.limits.upload_seconds):
            form = await request.form(max_files=1, max_fields=len(FIELDS), max_part_size=1 << 16)
    except TimeoutError:
        message = f"the file was not here after {served.limits.upload_seconds} s: send it in parts"
        raise HTTPException(408, message, {"Connection": "close"}) from None
    try:
        file, about = _read(form, served.limits.upload_bytes)
        if "characters" in about:
            about["characters"] = _number(about["characters"])
        pieces = text_pieces(cast(Path, _Uploaded(file.file, file.filename or "the file")))
        about.setdefault("source", file.filename or None)
        return await served.quick(lambda: served.store.add_pieces(pieces, user=user, **about))
    finally:
        await form.close()


class _Uploaded:
    """An uploaded file where a path is read."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name

    def open(self, mode: str) -> Any:
        return nullcontext(self._file)

    def __str__(self) -> str:
        return self._name


def _read(form: FormData, most: int) -> tuple[UploadFile, dict[str, Any]]:
    """The file of a form, and what is told of it."""
    odd = sorted(set(form) - {"file", *FIELDS})
    if odd:
        raise InputError(f"the form has {', '.join(odd)}: it may have file, {', '.join(FIELDS)}")
    file, about = form.get("file"), dict[str, Any]()
    if not isinstance(file, UploadFile):
        raise InputError("the form has no file: send it as curl -F file=@notes.txt")
    if (file.size or 0) > most:
        raise HTTPException(413, told_too_large(most, upload=True))
    for name in FIELDS:
        value = form.get(name)
        if isinstance(value, UploadFile):
            raise InputError(f"{name} is a field with text, not a file")
        if value:
            about[name] = value
    if "metadata" in about:
        try:
            about["metadata"] = json.loads(about["metadata"])
        except (ValueError, RecursionError) as error:
            raise InputError(f"metadata is not JSON ({error})") from error
    return file, about


def _number(told: str) -> int:
    if not told.isdecimal() or len(told) > 9:
        raise InputError(f"characters {told!r:.20}: give a whole number")
    return int(told)


@files.get("/export", response_class=FileResponse, tags=["read"])
async def export(user: User, served: Of) -> Response:
    """All of the user's entries as one zip file: JSON Lines and safetensors, readable without this program."""
    folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="r3mem-export-")
    path = Path(folder.name) / "memories.zip"
    try:
        await served.with_model(lambda: served.store.export(path, user=user))
    except BaseException:
        await asyncio.to_thread(folder.cleanup)
        raise
    return _Leaving(folder, path)


class _Leaving(FileResponse):
    """A file that is gone when it was sent, or when the client has gone."""

    def __init__(self, folder: tempfile.TemporaryDirectory[str], path: Path) -> None:
        super().__init__(path, media_type="application/zip", filename=path.name)
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.to_thread(self._folder.cleanup)
