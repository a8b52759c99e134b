"""How is an emulated engine started and stopped: ``python -m simulations.live.engine --profile P --port N ...``.

One JSON line per event on standard output, the first when both ports listen. SIGTERM drains: ``/health`` turns 503 at
once, requests are still taken for ``--lame-duck-s`` (the routers have yet to hear of it), then the port closes, streams
are finished, and the process exits with 0; with 1 when ``--drain-s`` is over and streams had to be cut. A second signal
exits at once. Exit code 2: an option cannot be used.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import uvicorn
from starlette.types import ASGIApp

from controller.adapters.system_clock import SystemClock
from controller.errors import BadInput, ForesailError
from simulations.live.emulated_engine import FLAVOURS, EmulatedEngine, EnginePhase, EngineSettings
from simulations.live.engine_app import admin_app, engine_app
from simulations.live.engine_faults import parse_fault
from simulations.live.live_profiles import live_profile_named

HOST = "127.0.0.1"

_KEEP_ALIVE_S = 3_900
"""Longer than a gateway keeps an idle connection (Envoy: an hour), so that the gateway closes it and never meets a
connection that closes as it sends."""

_BACKLOG = 2_048
_PARENT_LOOKED_FOR_S = 1.0


@dataclass(frozen=True, slots=True)
class DrainSettings:
    """How an engine goes.

    Attributes:
        lame_duck_s: For how long requests are still taken after SIGTERM.
        drain_s: Seconds after SIGTERM by which it is gone, streams finished or not.
    """

    lame_duck_s: float = 1.0
    drain_s: float = 120.0


class _Server(uvicorn.Server):
    """Leaves signals to the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def server_of(app: ASGIApp) -> uvicorn.Server:
    """Return a server on the event loop that runs, without logs, for ``serve(sockets=[...])``."""
    config = uvicorn.Config(
        app, lifespan="off", ws="none", log_config=None, access_log=False, server_header=False, date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S, backlog=_BACKLOG,
    )  # fmt: skip
    return _Server(config)


def listening(port: int, option: str) -> socket.socket:
    """Return a socket that listens on that port of the loopback device; 0 takes a free one.

    Raises:
        BadInput: If the port is taken.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
    except OSError as error:
        sock.close()
        raise BadInput(f"port {port}: {error.strerror}", option, "choose another port, or 0 for a free one") from None
    sock.listen(_BACKLOG)
    return sock


async def run(
    settings: EngineSettings, serving: socket.socket, admin: socket.socket, drain: DrainSettings, parent: int | None
) -> int:
    """Serve until told to stop; return the exit code. With a ``parent``, its process id, it goes when that does."""
    engine = EmulatedEngine(settings, _exit_now)
    watching = None if parent is None else asyncio.create_task(_end_with(parent))
    stopped = asyncio.Event()

    def stop() -> None:
        if stopped.is_set():
            _exit_now(128 + signal.SIGTERM)
        stopped.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    door, back_door = _Door(engine_app(engine), serving), _Door(admin_app(engine), admin)
    engine.shut = door.turn
    ports = {"port": serving.getsockname()[1], "admin_port": admin.getsockname()[1]}
    _say("listening", id=settings.id, model=settings.model, profile=settings.profile.name, **ports)
    await stopped.wait()
    _say("draining", open_answers=engine.open_answers)
    code = 0
    try:
        async with asyncio.timeout(drain.drain_s):
            await _drain(engine, drain.lame_duck_s, door)
    except TimeoutError:
        code = 1
    _say("stopped", cut=engine.open_answers)
    if code:
        _exit_now(code)
    await back_door.close()
    if watching is not None:
        watching.cancel()
    return code


class _Door:
    """A port and who listens there: nobody, while it is shut."""

    def __init__(self, app: ASGIApp, sock: socket.socket) -> None:
        self._app = app
        self._port = sock.getsockname()[1]
        self._open(sock)

    def _open(self, sock: socket.socket) -> None:
        self._sock, self._server = sock, server_of(self._app)
        self._task = asyncio.create_task(self._server.serve(sockets=[sock]))

    def turn(self, shut: bool) -> None:
        """Listen no more and cut every connection, or listen again."""
        if not shut:
            self._open(listening(self._port, "--port"))
            return
        self._server.should_exit = self._server.force_exit = True
        if not self._server.started:  # it was told to listen again just now
            self._task.cancel()
            self._sock.close()
            return
        for listener in self._server.servers:
            listener.close()
        for connection in list(self._server.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()

    async def close(self) -> None:
        """Listen no more; returns when every answer is out."""
        self._server.should_exit = True
        await asyncio.wait([self._task])


async def _drain(engine: EmulatedEngine, lame_duck_s: float, door: _Door) -> None:
    started = engine.phase is not EnginePhase.STARTING
    engine.drain()
    if started:
        await asyncio.sleep(lame_duck_s)
    engine.refusing = True
    await door.close()


async def _end_with(parent: int) -> None:
    """End the process when whoever started it is gone, however it went: nothing is left behind on the machine."""
    while os.getppid() == parent:
        await asyncio.sleep(_PARENT_LOOKED_FOR_S)
    _exit_now(1)


def _exit_now(code: int) -> None:
    """End the process without any farewell, as a crash does; what was printed is out."""
    sys.stdout.flush()
    os._exit(code)


def _say(event: str, **more: Any) -> None:
    print(json.dumps({"at": SystemClock().now(), "event": event, **more}), flush=True)  # noqa: T201 - the output


@click.command()
@click.option("--id", default="engine-0", show_default=True, help="Name of the replica.")
@click.option("--profile", default="llama-3.1-70b-a100-tp4", show_default=True, metavar="NAME", help="Engine profile.")
@click.option("--model", metavar="NAME", help="Served model name; the profile's if not given.")
@click.option("--flavour", type=click.Choice(list(FLAVOURS)), default="vllm", show_default=True,
              help="Whose metrics it has.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Serving port; 0 takes a free one.")
@click.option("--admin-port", type=click.IntRange(0, 65535), default=0, help="Admin port; 0 takes a free one.")
@click.option("--start-up-s", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Loading time.")
@click.option("--revision", default="", help="Shown in /v1/models.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="For answers that end by themselves.")
@click.option("--crash-at-start-s", type=click.FloatRange(min=0), help="Exit with 1 so long into the start-up.")
@click.option("--fault", "faults", multiple=True, metavar="JSON", help="What is wrong from the start; repeatable.")
@click.option("--lame-duck-s", type=click.FloatRange(min=0), default=DrainSettings().lame_duck_s, show_default=True,
              help="Still take requests for so long after SIGTERM.")  # fmt: skip
@click.option("--drain-s", type=click.FloatRange(min=0, min_open=True), default=DrainSettings().drain_s,
              show_default=True, help="Cut what still streams so long after SIGTERM.")  # fmt: skip
@click.option("--stop-with-parent", is_flag=True, help="Exit at once when the process that started it is gone.")
def main(
    profile: str, model: str | None, port: int, admin_port: int, stop_with_parent: bool, **options: Any
) -> None:  # fmt: skip
    """Be an LLM serving engine, but for the model: OpenAI API, native metrics, the timing of a profile."""
    # Before anything is said: who started it may be gone as soon as it has heard that the ports listen.
    parent = os.getppid() if stop_with_parent else None
    drain = DrainSettings(options.pop("lame_duck_s"), options.pop("drain_s"))
    try:
        chosen = live_profile_named(profile)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--profile") from None
    try:
        options["faults"] = tuple(parse_fault(text.encode()) for text in options["faults"])
    except BadInput as error:
        raise click.BadParameter(str(error), param_hint="--fault") from None
    settings = EngineSettings(profile=chosen, model=model or chosen.model, **options)
    try:
        serving, admin = listening(port, "--port"), listening(admin_port, "--admin-port")
    except ForesailError as error:
        raise click.UsageError(str(error)) from None
    gc.collect()
    gc.freeze()  # what was imported is never garbage; without it each full collection would walk all of it
    sys.exit(asyncio.run(run(settings, serving, admin, drain, parent)))


if __name__ == "__main__":
    main()
