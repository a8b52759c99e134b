"""How long may an answer take, head and body together? Connections that give it one deadline, however it drips.

A socket's time-out starts anew with every byte that comes: whoever sends one a second is never late.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from functools import partial
from http.client import HTTPResponse
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

_BUFFER_BYTES = 64 * 1024


def pools_with_deadline(elapsed: Callable[[], float], *, verified: bool = True) -> dict[str, type[HTTPConnectionPool]]:
    """Return the classes of pools by scheme, for a pool manager, whose read time-out holds for a whole answer.

    ``elapsed`` are seconds that never go back. What comes too late raises as a read time-out does. Where certificates
    are not to be ``verified``, whoever decided that says so once, and no connection warns of it at every request.
    """
    answer: Any = partial(_Answer, elapsed)

    class Plain(HTTPConnection):
        response_class = answer

    class Secure(HTTPSConnection):
        response_class = answer

        def connect(self) -> None:
            super().connect()
            if not verified:
                self.is_verified = True

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class _Answer(HTTPResponse):
    def __init__(self, elapsed: Callable[[], float], sock: socket.socket, *options: Any, **named: Any) -> None:
        super().__init__(sock, *options, **named)
        allowed_s = sock.gettimeout()
        if allowed_s is not None:
            self.fp.close()
            self.fp = io.BufferedReader(_Until(sock, elapsed, allowed_s), _BUFFER_BYTES)


class _Until(io.RawIOBase):
    """What a socket receives within ``allowed_s`` from now."""

    def __init__(self, sock: socket.socket, elapsed: Callable[[], float], allowed_s: float) -> None:
        self._socket, self._received = sock, sock.makefile("rb", buffering=0)
        self._elapsed, self._allowed_s = elapsed, allowed_s
        self._end_s = elapsed() + allowed_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left_s = self._end_s - self._elapsed()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left_s)
        try:
            return self._received.readinto(buffer)
        finally:
            self._socket.settimeout(self._allowed_s)

    def close(self) -> None:
        self._received.close()
        super().close()
