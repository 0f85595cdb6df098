"""The verbs of the store at addresses of HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST

from r3mem import __version__
from r3mem.errors import InputError
from r3mem.serve import bodies
from r3mem.serve.failures import DOCUMENTED
from r3mem.serve.guards import USER
from r3mem.serve.metrics import Metrics
from r3mem.serve.served import Served
from r3mem.store import Consolidated, Entry, Stats, Version


def user_of(request: Request) -> str:
    """Whose a request is.

    Args:
        request: It, behind the check of its key.
    """
    return str(request.scope[USER])


def served_of(request: Request) -> Served:
    """What is served.

    Args:
        request: Of a server that has started.
    """
    served: Served = request.app.state.served
    return served


User = Annotated[str, Depends(user_of)]
Of = Annotated[Served, Depends(served_of)]
Name = Annotated[str | None, Query(description="Only what this one added.")]
#: What a column of a database holds.
Number = Annotated[int | None, Query(ge=0, lt=1 << 31)]
# Without auto_error: the key was checked before. It gives the page of the interface its field for a key.
verbs = APIRouter(prefix="/v1", responses=DOCUMENTED, dependencies=[Depends(HTTPBearer(auto_error=False))])
about = APIRouter(tags=["server"])


@verbs.post("/memories", status_code=201, response_model=Entry, tags=["write"])
async def add(given: bodies.Addition, user: User, served: Of) -> Response:
    """Keep a text or a conversation. The answer comes when it is on the disk; compression follows."""
    text, more = given.given(), given.model_dump(include={"agent", "session", "source", "time", "metadata"})
    entry = await served.quick(lambda: served.store.add(text, user=user, **more))
    return JSONResponse(entry.plain(), 201)


@verbs.get("/memories", response_model=bodies.Listed, tags=["read"])
async def list_(
    user: User, served: Of, agent: Name = None, session: Name = None,
    after: Annotated[str | None, Query(description="`next` of the page before.")] = None, limit: int = 100,
    source: Annotated[str | None, Query(description="Only what is from there, as it was given.")] = None,
) -> Response:  # fmt: skip
    """Entries in the order in which they were added, page by page."""
    if limit > served.limits.page:
        raise InputError(f"limit {limit}: this server gives at most {served.limits.page:,} entries a page")
    page = await served.quick(
        lambda: served.store.list(user=user, agent=agent, session=session, after=after, limit=limit, source=source)
    )
    return JSONResponse({"entries": [entry.plain() for entry in page], "next": page.next, "total": page.total})


@verbs.get("/memories/{id}", response_model=Entry, tags=["read"])
async def get(id: str, user: User, served: Of) -> Response:
    """One entry, without its text."""
    return JSONResponse((await served.quick(lambda: served.store.get(id, user=user))).plain())


@verbs.get("/memories/{id}/text", response_model=bodies.Recalled, tags=["read"])
async def recall(
    id: str, user: User, served: Of, start: Number = None, end: Number = None, turn: Number = None,
    node: Number = None, version: Number = None,
) -> Response:  # fmt: skip
    """The exact text of an entry: of all of it, of characters, of a turn, of a part, or of an earlier version."""
    text = await served.recalled(id, user=user, start=start, end=end, turn=turn, node=node, version=version)
    return JSONResponse({"id": id, "text": text})


@verbs.get("/memories/{id}/history", response_model=list[Version], tags=["read"])
async def history(id: str, user: User, served: Of) -> Response:
    """Every version of an entry, oldest first."""
    versions = await served.quick(lambda: served.store.history(id, user=user))
    return JSONResponse([version.plain() for version in versions])


@verbs.put("/memories/{id}", response_model=Entry, tags=["write"])
async def update(id: str, given: bodies.Change, user: User, served: Of) -> Response:
    """Give an entry another text: a new version. The one before stays in the history."""
    text = given.given()
    entry = await served.quick(lambda: served.store.update(id, text, user=user, time=given.time))
    return JSONResponse(entry.plain())


@verbs.delete("/memories/{id}", response_model=bodies.Deleted, tags=["write"])
async def delete(id: str, user: User, served: Of) -> Response:
    """Erase an entry: every version, its text, virtual tokens and words."""
    return await _deleted(served, await served.with_model(lambda: served.store.delete(id, user=user)))


@verbs.delete("/memories", response_model=bodies.Deleted, tags=["write"])
async def delete_all(
    user: User, served: Of, agent: Name = None, session: Name = None,
    all: Annotated[bool, Query(description="Must be true: an id that was left out erases nothing.")] = False,
) -> Response:  # fmt: skip
    """Erase all entries of the user, or those of an agent or a session."""
    if not all:
        raise InputError("this would erase every entry: add all=true if you mean it, or give the id of one")
    count = await served.with_model(lambda: served.store.delete_all(user=user, agent=agent, session=session))
    return await _deleted(served, count)


async def _deleted(served: Served, count: int) -> Response:
    why = await served.quick(served.store.unerased)
    return JSONResponse({"deleted": count, **({} if why is None else {"unerased": why})})


@verbs.post("/search", response_model=bodies.Hits, tags=["read"])
async def search(given: bodies.Query, user: User, served: Of) -> Response:
    """Entries that fit a query, best first. A query is sent as a body, so that it stands in no log of addresses."""
    hits = await served.found(
        given.query, given.k, given.text, user=user, agent=given.agent, session=given.session
    )  # fmt: skip
    return JSONResponse({"hits": hits})


@verbs.post("/consolidate", response_model=Consolidated, tags=["write"])
async def consolidate(given: bodies.Part, user: User, served: Of) -> Response:
    """Merge old entries into coarser memories. Their texts can be recalled as before."""
    done = await served.with_model(
        lambda: served.store.consolidate(user=user, agent=given.agent, session=given.session)
    )
    return JSONResponse(done.plain())


@verbs.get("/stats", response_model=Stats, tags=["read"])
async def stats(user: User, served: Of) -> Response:
    """How much is kept, waits and failed."""
    told = (await served.quick(lambda: served.store.stats(user=user))).plain()
    # Who runs this server reads more of it in the log.
    told["trouble"] = told["trouble"] and "texts are kept, and are not compressed at present"
    return JSONResponse(told)


@about.get("/health", response_model=bodies.Health)
async def health() -> dict[str, Any]:
    """That the server answers; the store is not asked."""
    return {"status": "ok", "version": __version__}


@about.get("/ready", response_model=bodies.Health, responses={503: DOCUMENTED[503]})
async def ready(served: Of) -> dict[str, Any]:
    """That the store can be read too."""
    await served.quick(lambda: served.store.list(user="nobody", limit=1))
    return {"status": "ready", "version": __version__}


@about.get("/metrics", response_class=Response)
async def metrics(request: Request, served: Of) -> Response:
    """Counts in the text format of Prometheus, of all users together; any key will do."""
    counts: Metrics = request.app.state.metrics
    return Response(
        counts.shown(await served.quick(lambda: served.store.stats())), headers={"content-type": CONTENT_TYPE_LATEST}
    )
