"""What a server counts, as Prometheus reads it. No user, no id and no text is in it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from r3mem.serve.served import Served
    from r3mem.store import Stats

SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
#: Of the store, each with the attribute of `Stats` that it shows.
STORED = {
    "entries": "Entries of all users.",
    "pending": "Texts that wait for compression.",
    "failed": "Texts that could not be compressed.",
    "text_bytes": "Bytes of all texts, kept or not.",
    "raw_bytes": "Bytes of raw text that is kept.",
    "blob_bytes": "Bytes of virtual tokens.",
    "disk_bytes": "Bytes of the database's files.",
}


class Metrics:
    """Counts of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("r3mem_requests", "Requests that were answered.", labels, registry=self.registry)
        self._seconds = Histogram(
            "r3mem_request_seconds", "Seconds from a request to the end of its answer.", ("route",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._stored = {
            name: Gauge(f"r3mem_store_{name}", what, registry=self.registry) for name, what in STORED.items()
        }

    def watch(self, served: Served) -> None:
        """Show how many calls work and wait.

        Args:
            served: What they call.
        """
        working = Gauge("r3mem_calls_working", "Calls that work.", ("kind",), registry=self.registry)
        waiting = Gauge("r3mem_calls_waiting", "Calls that wait for their turn.", ("kind",), registry=self.registry)
        for kind, gate in (("plain", served.plain), ("model", served.model), ("upload", served.uploads)):
            working.labels(kind).set_function(functools.partial(getattr, gate, "working"))
            waiting.labels(kind).set_function(functools.partial(getattr, gate, "waiting"))

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            method: Of HTTP.
            route: The pattern of its address.
            status: Of HTTP; 499 where the client had gone.
            seconds: How long it took.
        """
        known = method if method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS") else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def shown(self, stats: Stats) -> bytes:
        """All of it in Prometheus's text format.

        Args:
            stats: Of the whole store.
        """
        for name, gauge in self._stored.items():
            gauge.set(getattr(stats, name))
        return bytes(generate_latest(self.registry))
