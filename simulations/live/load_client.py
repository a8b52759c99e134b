"""How is one streamed completion asked for and timed, at little cost: HTTP/1.1 over kept connections, parsed by h11.

h11 is the parser inside httpx; what is left out is everything between it and the socket. Measured against httpx 0.28 on
two busy cores, CPU of the player per streamed token: 8 engines x 20 streams, 22 us and 56 us, both keep up with 4,900
tokens/s; 4 engines x 250 streams, 8 us and 53 us, and there httpx took 68 s for what engines yield in 32 s: a player
that cannot keep up slows down what it measures.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import h11

from controller.errors import BadInput
from simulations.live.event_stream import EventStream

_MOST_IDLE = 4_096
_IDLE_S = 60.0  # shorter than any server keeps a connection, so that none closes as it is used

Failure: TypeAlias = Literal["connect", "closed", "http", "cut", "timeout", "protocol"]
"""Could not connect; closed before an answer; an error status; a stream that ended too early; too slow; not HTTP."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: an engine or a gateway on this machine."""

    host: str
    port: int
    path: str = "/v1/completions"

    @classmethod
    def parse(cls, url: str) -> Target:
        """Return the target ``http://127.0.0.1:PORT``.

        Raises:
            BadInput: If it is not HTTP on the loopback device: load is not for machines of others.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise BadInput(f"{url!r} is not a URL", "--target", "give http://127.0.0.1:PORT") from None
        if parts.scheme != "http" or port is None or parts.path not in ("", "/"):
            raise BadInput(f"{url!r} is not http://HOST:PORT", "--target", "give http://127.0.0.1:PORT")
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
        try:
            loopback = ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise BadInput(f"{host} is not this machine", "--target", "load goes to the loopback device only")
        return cls(host, port)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What became of one request. Instants are those of the event loop, NaN where there is none.

    Attributes:
        status: HTTP status; 0 when no answer came.
        failure: None when all went well.
        tokens: Output tokens received.
        replica: Who answered, if the answer says so.
    """

    status: int
    failure: Failure | None
    first_token_at: float
    last_token_at: float
    ended_at: float
    tokens: int
    replica: str


NOTHING_SEEN = Exchange(0, None, math.nan, math.nan, math.nan, 0, "")
"""Of a request that was not sent, or given up."""


class LoadClient:
    """Sends completions to one target; connections are kept for the next request.

    Args:
        target: Where to.
        connect_timeout_s: For a new connection.
        timeout_s: From sending to the last byte.
    """

    def __init__(self, target: Target, connect_timeout_s: float = 5.0, timeout_s: float = 600.0) -> None:
        self._target = target
        self._connect_timeout_s, self._timeout_s = connect_timeout_s, timeout_s
        self._idle: list[_Connection] = []

    async def complete(self, body: bytes, model: str) -> Exchange:
        """Send ``body`` and read the answer to its end, or to the failure. Never raises for what the network does."""
        loop = asyncio.get_running_loop()
        try:
            connection = self._kept(loop.time()) or await self._connected()
        except (OSError, TimeoutError):
            return Exchange(0, "connect", math.nan, math.nan, loop.time(), 0, "")
        try:
            async with asyncio.timeout(self._timeout_s):
                exchange = await connection.ask(self._target, body, model)
        except TimeoutError:
            exchange = connection.seen("timeout", loop.time())
        finally:
            if connection.reusable and len(self._idle) < _MOST_IDLE:
                connection.idle_since_at = loop.time()
                self._idle.append(connection)
            else:
                connection.close()
        return exchange

    def close(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            self._idle.pop().close()

    def _kept(self, now: float) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and now - connection.idle_since_at < _IDLE_S:
                return connection
            connection.close()
        return None

    async def _connected(self) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout_s):
            _, connection = await loop.create_connection(_Connection, self._target.host, self._target.port)
        return connection


class _Connection(asyncio.Protocol):
    """One connection, and the exchange on it."""

    def __init__(self) -> None:
        self.idle_since_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._http = h11.Connection(h11.CLIENT)
        self._ended: asyncio.Future[Failure | None] | None = None
        self._status = 0
        self._replica = ""
        self._stream = EventStream()

    @property
    def reusable(self) -> bool:
        """Whether another request can be sent."""
        open_ = self._transport is not None and not self._transport.is_closing()
        return open_ and self._http.our_state is h11.IDLE and self._http.their_state is h11.IDLE

    async def ask(self, target: Target, body: bytes, model: str) -> Exchange:
        """Send a request and wait for its end."""
        assert self._transport is not None  # noqa: S101 - create_connection has set it
        self._status, self._replica, self._stream = 0, "", EventStream()
        self._ended = self._loop.create_future()
        headers = [
            ("host", f"{target.host}:{target.port}"),
            ("x-model", model),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
        ]
        head = self._http.send(h11.Request(method="POST", target=target.path, headers=headers))
        content = self._http.send(h11.Data(data=body))
        self._http.send(h11.EndOfMessage())
        self._transport.write((head or b"") + (content or b""))
        failure = await self._ended
        return self.seen(failure, self._loop.time())

    def seen(self, failure: Failure | None, at: float) -> Exchange:
        """Return what has been seen of the exchange."""
        stream = self._stream
        if failure is None and self._status != 200:
            failure = "http"
        elif failure is None and (not stream.done or stream.broken):
            failure = "cut"
        return Exchange(
            self._status, failure, stream.first_token_at, stream.last_token_at, at, stream.tokens, self._replica
        )

    def close(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP connection has no other
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange under way."""
        self._end("cut" if self._status else "closed")

    def eof_received(self) -> bool:
        """Let h11 know; it may be the end of the answer."""
        self.data_received(b"")
        return False

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        at = self._loop.time()
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Data):
                    self._stream.feed(bytes(event.data), at)
                elif isinstance(event, h11.Response):
                    self._status = event.status_code
                    self._replica = next((v.decode() for k, v in event.headers if k == b"x-replica"), "")
                elif isinstance(event, h11.EndOfMessage):
                    if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                        self._http.start_next_cycle()
                    self._end(None)
                    return
                elif not isinstance(event, h11.InformationalResponse):
                    return  # NEED_DATA, PAUSED or ConnectionClosed
        except h11.RemoteProtocolError:
            cut = self._status == 200 and not data  # the peer closed in the middle of a body
            self._end("cut" if cut else "protocol" if data else "closed")

    def _end(self, failure: Failure | None) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(failure)
