"""The application: routes, tools, and what stands in front of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

from fastapi import FastAPI
from mcp.server.transport_security import TransportSecuritySettings
from starlette.middleware import Middleware

from r3mem import __version__
from r3mem.serve.failures import add_failures
from r3mem.serve.files import files
from r3mem.serve.guards import BodyLimit, Counted, KeyCheck, NoStrangePages
from r3mem.serve.keys import Keys
from r3mem.serve.limits import Limits
from r3mem.serve.metrics import Metrics
from r3mem.serve.routes import about, verbs
from r3mem.serve.served import Served
from r3mem.serve.tools import make_tools
from r3mem.store import AsyncMemoryStore, MemoryStore

#: Names under which a browser on this machine reaches it.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DESCRIPTION = """Memories that stay, are found, corrected and forgotten, and come back word for word. Every request
brings a key (`Authorization: Bearer KEY`), and sees what belongs to the user of that key, nothing else."""


def make_app(
    store: Callable[[], MemoryStore], keys: Keys, limits: Limits | None = None, hosts: Collection[str] = LOOPBACK
) -> FastAPI:
    """A server of a store, as an ASGI application.

    Args:
        store: Opens the store when the server starts; it is closed when the server ends.
        keys: Whose a request is.
        limits: How much is taken in; None for the defaults.
        hosts: Names under which it may be reached where it asks for no keys.
    """
    limits, metrics = limits or Limits(), Metrics()
    tools = make_tools(lambda: served_by(app))
    # Whom it answers is settled before: NoStrangePages and KeyCheck.
    anybody = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    tool_routes = tools.streamable_http_app(
        stateless_http=True, json_response=True, max_request_body_size=limits.body_bytes, transport_security=anybody
    ).routes

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opened = AsyncMemoryStore(store())
        try:
            opened.store.start()
            app.state.served = Served(opened, limits)
            metrics.watch(app.state.served)
            async with tools.session_manager.run():
                yield
        finally:
            await opened.close()

    front = [
        Middleware(Counted, metrics=metrics),
        *([] if keys.needed else [Middleware(NoStrangePages, hosts=hosts)]),
        Middleware(KeyCheck, keys=keys),
        Middleware(BodyLimit, limits=limits),
    ]
    app = FastAPI(
        title="r3mem", version=__version__, description=DESCRIPTION, lifespan=lifespan, middleware=front,
        redirect_slashes=False, redoc_url=None,
    )  # fmt: skip
    app.state.metrics = metrics
    for routes in (verbs, files, about):
        app.include_router(routes)
    app.router.routes.extend(tool_routes)
    add_failures(app)
    return app


def served_by(app: FastAPI) -> Served:
    """What an application serves, once it has started.

    Args:
        app: It.
    """
    served: Served = app.state.served
    return served
