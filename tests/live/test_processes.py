"""Do children end with their supervisor, whatever ends it, and stay within their bounds?"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from simulations.live.processes import MAX_LOG_BYTES, FreePorts, StartFailed, Supervisor, rotate, until_ready

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 20.0

SLEEPER = [sys.executable, "-I", "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable, "-I", "-S", "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]  # fmt: skip
PARENT = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)"
)
WITH_CHILD = [sys.executable, "-I", "-S", "-c", PARENT]


def alive(pid: int) -> bool:
    """Return whether the process runs: one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, DEADLINE_S))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


def said(log: Path) -> Callable[[], bool]:
    return lambda: log.exists() and bool(log.read_text().strip())


def test_leaving_the_block_stops_everything_also_what_ignores_sigterm(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Supervisor(tmp_path, grace_s=0.3) as supervisor:
            children = [await supervisor.start("sleeper", SLEEPER), await supervisor.start("stubborn", STUBBORN)]
            await until(said(tmp_path / "stubborn.log"))
            assert all(alive(child.pid) for child in children)
        assert not any(alive(child.pid) for child in children)
        assert children[1].exit_code == -signal.SIGKILL

    run(scenario())


def test_stopping_a_child_ends_what_it_started(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Supervisor(tmp_path) as supervisor:
            child = await supervisor.start("parent", WITH_CHILD)
            await until(said(child.log))
            grandchild = int(child.log.read_text())
            assert alive(grandchild)
            await child.stop(1.0)
            await until(lambda: not alive(grandchild))

    run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_kill_9_of_the_supervisor_kills_its_children(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from simulations.live.processes import Supervisor\n"
        "async def main():\n"
        f"    async with Supervisor(Path({str(tmp_path)!r})) as supervisor:\n"
        f"        children = [await supervisor.start(str(n), {STUBBORN!r}) for n in range(3)]\n"
        "        print(*[child.pid for child in children], flush=True)\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 3
    run(until(lambda: all(said(tmp_path / f"{n}.log")() for n in range(3))))
    assert all(alive(pid) for pid in pids)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    run(until(lambda: not any(alive(pid) for pid in pids)))


def test_a_child_that_ends_before_it_is_ready_is_told_with_its_last_words(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    async def scenario() -> None:
        async with Supervisor(tmp_path) as supervisor:
            child = await supervisor.start("broken", [sys.executable, "-I", "-c", "raise SystemExit('no such port')"])
            with pytest.raises(StartFailed, match=r"ended with code 1: no such port"):
                await until_ready(child, never, DEADLINE_S)
            missing = await supervisor.start("missing", ["/no/such/program"])
            with pytest.raises(StartFailed, match="No such file"):
                await until_ready(missing, never, DEADLINE_S)
            slow = await supervisor.start("slow", SLEEPER)
            with pytest.raises(StartFailed, match="not ready within"):
                await until_ready(slow, never, 0.2)

    run(scenario())


def test_nothing_is_started_once_all_is_being_stopped(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Supervisor(tmp_path) as supervisor:
            pass
        with pytest.raises(StartFailed):
            await supervisor.start("late", SLEEPER)

    run(scenario())


def test_a_log_is_cut_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    with log.open("ab") as writer:
        writer.write(b"early\n" + b"x" * MAX_LOG_BYTES)
        writer.flush()
        assert rotate(log)
        assert not rotate(log)
        writer.write(b"later\n")
    assert log.read_bytes() == b"later\n"
    assert (tmp_path / "engine.log.1").stat().st_size == MAX_LOG_BYTES


def test_no_port_is_given_twice_unless_it_was_given_back() -> None:
    ports = FreePorts()
    given = [ports.take() for _ in range(50)]
    assert len(set(given)) == 50
    ports.give_back(*given)
    assert all(1024 <= port < 65536 for port in (ports.take() for _ in range(50)))
