"""Is a service started again when it ends, and left alone when it is stopped on purpose?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from simulations.live.processes import Child, StartFailed, Supervisor
from simulations.live.services import Ended, Service
from tests.live.test_processes import SLEEPER, alive, run, until


def starter(supervisor: Supervisor, started: list[Child]) -> Callable[[], Awaitable[Child]]:
    async def start() -> Child:
        started.append(await supervisor.start("service", SLEEPER))
        return started[-1]

    return start


def test_what_ends_by_itself_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.live.services.FIRST_WAIT_S", 0.05)

    async def scenario() -> None:
        started: list[Child] = []
        told: list[Ended] = []
        async with Supervisor(tmp_path) as supervisor:
            service = Service("service", starter(supervisor, started), told.append)
            await service.begin()
            for lives in (2, 3):
                await started[-1].stop(1.0)
                await until(lambda lives=lives: len(started) == lives)  # type: ignore[misc]  # bound on purpose
            assert service.running
            assert [(ended.name, ended.again_in_s) for ended in told] == [("service", 0.05), ("service", 0.1)]
            assert service.restarts == 2

    run(scenario())


def test_what_is_stopped_stays_so_until_it_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.live.services.FIRST_WAIT_S", 0.05)

    async def scenario() -> None:
        started: list[Child] = []
        told: list[Ended] = []
        async with Supervisor(tmp_path) as supervisor:
            service = Service("service", starter(supervisor, started), told.append)
            await service.begin()
            await service.stop(1.0)
            await asyncio.sleep(0.3)
            assert not service.running
            assert not alive(started[0].pid)
            await service.begin()
            assert service.running
            assert len(started) == 2
            assert told == []
            await service.stop(1.0)

    run(scenario())


def test_what_cannot_start_is_told_at_once_and_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.live.services.FIRST_WAIT_S", 0.05)

    async def scenario() -> None:
        tries = 0
        async with Supervisor(tmp_path) as supervisor:

            async def start() -> Child:
                nonlocal tries
                tries += 1
                if tries in (1, 3, 4):
                    raise StartFailed("not now")
                return await supervisor.start("service", SLEEPER)

            service = Service("service", start)
            with pytest.raises(StartFailed):
                await service.begin()
            await service.begin()
            assert service.child is not None
            first = service.child.pid
            await service.child.stop(1.0)
            await until(lambda: service.running and service.child is not None and service.child.pid != first)
            assert tries == 5

    run(scenario())
