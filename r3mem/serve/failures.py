"""What goes wrong as JSON: a word for programs, and a sentence that says what to do."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from r3mem.errors import FingerprintError, InputError, NotFound, R3MemError, RecallError, StoreError
from r3mem.serve.gate import Busy

logger = logging.getLogger(__name__)
#: What a route may answer beside what it is for; the page of the interface lists it.
WORDS = {
    400: "bad_request", 401: "unknown_key", 403: "refused", 404: "not_found", 405: "no_such_method", 408: "too_slow",
    413: "too_large", 415: "no_such_form", 422: "bad_input", 500: "internal", 503: "unavailable",
}  # fmt: skip


class Failure(BaseModel):
    """Why a request was not done."""

    error: str = Field(description="A word for programs.", examples=["not_found"])
    message: str = Field(description="A sentence that says what to do.")


#: Of every route, for the page of the interface.
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    401: {"model": Failure, "description": "No key, or one that is not known."},
    404: {"model": Failure, "description": "Not there: unknown, deleted, or another user's."},
    413: {"model": Failure, "description": "Larger than this server takes."},
    422: {"model": Failure, "description": "What was given cannot be processed."},
    503: {"model": Failure, "description": "Busy, or the store cannot be reached: see Retry-After."},
}


def answer(status: int, message: str, error: str | None = None, **headers: str) -> JSONResponse:
    """A failure as a response.

    Args:
        status: Of HTTP.
        message: What to do.
        error: The word; None for that of the status.
        **headers: Named with ``_`` for ``-``.
    """
    told = Failure(error=error or WORDS.get(status, "refused"), message=message)
    return JSONResponse(told.model_dump(), status, {name.replace("_", "-"): text for name, text in headers.items()})


def told(error: Exception) -> tuple[int, str, str]:
    """Status, word and sentence of an error of ours. What only the operator can mend goes to the log.

    Args:
        error: It.
    """
    if isinstance(error, Busy):
        return 503, "busy", str(error)
    if isinstance(error, NotFound):
        return 404, WORDS[404], str(error)
    if isinstance(error, InputError):
        return 422, WORDS[422], str(error)
    number = secrets.token_hex(4)
    logger.error("failure %s", number, exc_info=error)
    if isinstance(error, RecallError):
        return 500, "damaged", f"this memory is damaged, so no text is given: report failure {number} to who runs this"
    if isinstance(error, FingerprintError):
        return 500, "other_model", f"another model made this memory: report failure {number} to who runs this server"
    if isinstance(error, StoreError):
        return 503, WORDS[503], f"the store cannot be used at present: try again, or report failure {number}"
    return 500, WORDS[500], f"this should not happen: report failure {number} to who runs this server"


def add_failures(app: FastAPI) -> None:
    """Let an application answer so.

    Args:
        app: It.
    """

    async def ours(request: Request, error: Exception) -> JSONResponse:
        status, word, message = told(error)
        if status == 503:
            return answer(status, message, word, Retry_After=str(getattr(error, "seconds", 5)))
        return answer(status, message, word)

    async def not_as_described(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return answer(422, in_a_sentence(error.errors()))

    async def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = str(error.detail)
        if error.status_code in (404, 405) and message in ("Not Found", "Method Not Allowed"):
            message = f"there is no {request.method} at this address: /docs lists what there is"
        headers = {name.replace("-", "_"): text for name, text in (error.headers or {}).items()}
        return answer(error.status_code, message, **headers)

    async def gone(request: Request, error: Exception) -> JSONResponse:
        return answer(400, "the client broke off: nothing was done")

    app.add_exception_handler(R3MemError, ours)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Busy, ours)
    app.add_exception_handler(RequestValidationError, not_as_described)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, ours)


def in_a_sentence(errors: Sequence[Any]) -> str:
    """What is wrong with a request, without what was given in it.

    Args:
        errors: As pydantic lists them.
    """
    parts = []
    for error in errors[:5]:
        place = ".".join(str(part) for part in error["loc"] if part != "body") or "the body"
        parts.append(f"{place}: {error['msg']}")
    return "; ".join(parts).encode("ascii", "backslashreplace").decode() + " (/docs shows what this takes)"


def of_route(scope: Scope) -> str:
    """The pattern of the address of a request; no id and no name is in it.

    Args:
        scope: Of the request, after it was answered.
    """
    return str(getattr(scope.get("route"), "path", "none"))
