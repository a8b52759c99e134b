"""How do requests reach the API server, and what does the network do to them on the way?

HTTP/1.1 on loopback, a thread for every connection, watches as chunked streams. A partition and the faults that cut or
hang act here, before a request has been looked at.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from simulations.kubernetes_api.api import Api
from simulations.kubernetes_api.faults import Fault, Faults
from simulations.kubernetes_api.requests import Answer, Request, path_of, refused

_RESET = struct.pack("ii", 1, 0)
Partition = Literal["", "reset", "hang"]


class ApiServer(ThreadingHTTPServer):
    """The API on a port of loopback.

    Args:
        api: What answers.
        faults: What requests meet first.
        port: 0 for a free one.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, api: Api, faults: Faults, port: int = 0) -> None:
        self.api, self.faults = api, faults
        self.ended = threading.Event()
        self._partition: Partition = ""
        self._healed = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Exchange)

    def partition(self, how: Literal["reset", "hang"]) -> None:
        """Cut every connection; from then on new ones are cut at once (``reset``) or never answered (``hang``)."""
        self._healed.clear()
        self._partition = how
        self.cut_connections()

    def heal(self) -> None:
        """End the partition; what hung is cut."""
        self._partition = ""
        self._healed.set()

    def cut_connections(self) -> None:
        """Reset every open connection."""
        with self._lock:
            open_now = list(self._connections)
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                connection.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """Wait until the partition heals or the server ends."""
        while not self.ended.is_set() and not self._healed.wait(0.1):
            pass

    def apart(self) -> Partition:
        """Return how the server is cut off at the moment; empty: it is not."""
        return self._partition

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, so that it can be cut."""
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let connections that were cut go silently; anything else is a mistake of ours and is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Cut(OSError):
    """The connection is to be cut without an answer."""


class _Exchange(BaseHTTPRequestHandler):
    """One connection, a request after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: ApiServer

    def log_message(self, *_: object) -> None:
        """Say nothing: what happened is in the store."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        request = Request(self.command, self.path, body, {name.lower(): held for name, held in self.headers.items()})
        try:
            self._pass_partition()
            self._send(self._met(request) or self.server.api.answer(request), lost=self._lost)
        except _Cut:
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    _lost = False

    def _pass_partition(self) -> None:
        apart = self.server.apart()
        if apart == "hang":
            self.server.hang()
        if apart:
            raise _Cut

    def _met(self, request: Request) -> Answer | None:
        """Return the answer of the faults that the request meets; None where it goes on to the API."""
        self._lost = False
        aim = self.server.api.aim(request)
        if aim is None and request.method != "POST":
            return None
        # Reviews are no resources, but are asked for like some that are created.
        struck = (aim.verb, aim.resource) if aim else ("create", path_of(request.target)[0].rpartition("/")[2])
        for fault in self.server.faults.strike(*struck):
            if found := self._suffer(fault):
                return found
        return None

    def _suffer(self, fault: Fault) -> Answer | None:
        if fault.latency_s:
            self.server.ended.wait(fault.latency_s)
        if fault.hang:
            self.server.hang()
            raise _Cut
        if fault.reset:
            raise _Cut
        self._lost = self._lost or fault.answer_lost
        return refused(fault.refusal()) if fault.code else None

    def _send(self, answer: Answer, *, lost: bool) -> None:
        if lost:
            raise _Cut
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.content_type)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.stream is None:
            text = answer.text.encode()
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for piece in answer.stream:
            data = piece.encode()
            if data:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


for _method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
    setattr(_Exchange, f"do_{_method}", _Exchange._serve)
