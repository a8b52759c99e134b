"""A stand-in for an engine: streams what the path asks for, ``/health`` says 503 until it has started.

``/stream/N`` sends N pieces a tenth of a second apart, ``/hang`` a head and nothing more, ``/exit/CODE`` ends the
process; anything else answers at once. SIGTERM lets streams finish.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path


class StandIn:
    def __init__(self, starts_in_s: float) -> None:
        self.ready_at = asyncio.get_running_loop().time() + starts_in_s
        self.running = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                length = 0
                while (header := await reader.readline()).strip():
                    name, _, value = header.decode().partition(":")
                    length = int(value) if name.lower() == "content-length" else length
                await reader.readexactly(length)
                self.running += 1
                try:
                    await self.answer(line.split()[1].decode(), writer)
                finally:
                    self.running -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        loading = asyncio.get_running_loop().time() < self.ready_at
        if path == "/health" or loading:
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % (503 if loading else 200))
            return await writer.drain()
        if path.startswith("/exit/"):
            os._exit(int(path.rsplit("/", 1)[1]))
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(int(path.rsplit("/", 1)[1]) if path.startswith("/stream/") else 0):
            writer.write(b"2\r\nhi\r\n")
            await writer.drain()
            await asyncio.sleep(0.1)
        if path == "/hang":
            await asyncio.sleep(3600)
        writer.write(b"0\r\n\r\n")
        return await writer.drain()


async def main(port: int, starts_in_s: float) -> None:
    stand_in = StandIn(starts_in_s)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(stand_in.serve, "127.0.0.1", port, backlog=1024)
    await stop.wait()
    server.close()
    while stand_in.running:
        await asyncio.sleep(0.02)


def command(port: int, starts_in_s: float = 0.1) -> list[str]:
    return [sys.executable, "-I", "-S", str(Path(__file__)), str(port), str(starts_in_s)]


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
