"""Is it alive, who forecasts, what waits, what does it count: ``/healthz``, ``/readyz``, ``/status``, ``/metrics``.

Served by a thread of its own, so that an answer does not wait for a tick, with bounds on connections and headers.
Nothing can be changed through it.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from controller.errors import BadInput

if TYPE_CHECKING:
    import asyncio

    import uvicorn
    from prometheus_client import CollectorRegistry
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MAX_CONNECTIONS = 64
MAX_HEADER_BYTES = 16 * 1024
BACKLOG = 64
STOP_WITHIN_S = 2
CONNECTION_S = 20.0
"""Longest that a connection lives, in seconds: idle ones would keep probes out, and the daemon would look dead."""


class StatusSettings(BaseModel):
    """Where probes and the metrics store reach the daemon."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = Field(
        "127.0.0.1:9464",
        description="HOST:PORT of /healthz, /readyz, /status and /metrics, HOST as an address ([::1]:9464) or "
        "localhost; port 0 takes a free one. 9464 is what OpenTelemetry's Prometheus exporters use. Cannot change "
        "while the daemon runs.",
    )
    public: bool = Field(
        False,
        description="Whether an address that others reach may be bound: what is served tells models, load and sizes.",
    )

    @model_validator(mode="after")
    def _loopback_unless_public(self) -> StatusSettings:
        refuse_outside(self.address, self.public)
        return self


def refuse_outside(address: str, public: bool) -> None:
    """Refuse an address that others reach, unless that is meant.

    Raises:
        ValueError: If it is none, or not loopback and not ``public``.
    """
    host, _ = split_address(address)
    if not public and not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"{address} can be reached from outside: set public: true if that is meant")


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``.

    Raises:
        ValueError: If it is none.

    >>> split_address("[::1]:9464"), split_address("localhost:0")
    (('::1', 9464), ('127.0.0.1', 0))
    """
    host, _, port = address.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"{address!r} is not of the form HOST:PORT")
    return str(ipaddress.ip_address(host)), int(port)


class Health(Protocol):
    """Who knows how the daemon is. Each verb returns whether all is well, and what there is to say."""

    def alive(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether the loop still turns; if not, the process should be started anew."""
        ...

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether it sees the fleet and can record what it does."""
        ...

    def status(self) -> Mapping[str, Any]:
        """Who forecasts, how well, and what followed from that; what waits for an approval; which budgets burn."""
        ...


class StatusServer:
    """A small HTTP server in a thread.

    Raises:
        BadInput: If its address cannot be bound.
    """

    def __init__(self, settings: StatusSettings, health: Health, registry: CollectorRegistry) -> None:
        self._socket = bound(settings.address, "status")
        self._server = _server(_application(health, registry))
        self._thread = threading.Thread(target=self._serve, name="status", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Listen from now on: connections wait in the backlog until the thread is up."""
        self._socket.listen(BACKLOG)
        self._thread.start()

    def stop(self) -> None:
        """Close the address; an answer that is under way gets a moment."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(STOP_WITHIN_S + 1)
        with suppress(OSError):
            self._socket.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])


def bound(address: str, what: str) -> socket.socket:
    """Return a socket bound to ``address``, which does not listen yet.

    Raises:
        BadInput: If it cannot be bound; ``what`` is the group of the setting, under ``daemon``.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        reason = (error.strerror or str(error)).lower()
        remedy = f"stop what listens there, or set daemon.{what}.address"
        raise BadInput(f"the {what} address cannot be bound: {reason}", address, remedy) from None
    return found


def _server(application: Starlette) -> uvicorn.Server:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Passing(H11Protocol):
        """A connection that ends in time, whatever the client sends or does not read."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
            super().connection_made(transport)
            self._end = self.loop.call_later(CONNECTION_S, transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._end.cancel()
            super().connection_lost(exc)

    return uvicorn.Server(
        uvicorn.Config(
            application,
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="off",
            ws="none",
            http=Passing,
            limit_concurrency=MAX_CONNECTIONS,
            backlog=BACKLOG,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=STOP_WITHIN_S,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            server_header=False,
            proxy_headers=False,
        )
    )


def _application(health: Health, registry: CollectorRegistry) -> Starlette:
    from prometheus_client.exposition import choose_encoder
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    def told(ask: Callable[[], tuple[bool, Mapping[str, Any]]]) -> Callable[[Request], Response]:
        def answer(_: Request) -> Response:
            well, what = ask()
            return JSONResponse({"ok": well, **what}, 200 if well else 503)

        return answer

    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return Starlette(
        routes=[
            Route("/healthz", told(health.alive)),
            Route("/readyz", told(health.ready)),
            Route("/status", lambda _: JSONResponse(health.status())),
            Route("/metrics", metrics),
        ]
    )
