"""Which processes stand around the loop when whole ticks are measured: a Prometheus, and the fleet that it scrapes."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from controller.errors import BadInput, ForesailError
from policies.fleet import PoolState

_REPLICAS_PER_TARGET = 250
_MISSING = "there is no prometheus on the PATH"
_INSTALL = "apt-get install --no-install-recommends prometheus"


def prometheus_binary() -> str:
    """Return the path of Prometheus.

    Raises:
        BadInput: If there is none.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        raise BadInput(_MISSING, "bench tick", f"install it: {_INSTALL}")
    return binary


@contextmanager
def prometheus_of(pools: Sequence[PoolState], interval_s: float, say: Callable[[str], None]) -> Iterator[str]:
    """Run a Prometheus that scrapes every replica of ``pools``, and yield its address; both processes are ended after.

    Raises:
        BadInput: If there is no Prometheus.
        ForesailError: If it or the made-up fleet does not come up.
    """
    binary = prometheus_binary()
    names = [[pool.key.model, pool.key.pool, [replica.id for replica in pool.replicas]] for pool in pools]
    parts = math.ceil(sum(len(pool.replicas) for pool in pools) / _REPLICAS_PER_TARGET)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foresail-bench-")))
        say("starting Prometheus and the fleet that it scrapes")
        (folder / "fleet.json").write_text(json.dumps(names))
        command = [sys.executable, "-m", "controller.bench_exposition", str(folder / "fleet.json"), str(parts)]
        fleet = stack.enter_context(process_of(command, folder / "fleet.log", talks=True))
        port = next_line(fleet, folder / "fleet.log")
        config = folder / "prometheus.yml"
        config.write_text(_config(port, parts, interval_s))
        own_port = _free_port()
        command = [
            binary,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{own_port}",
            "--query.timeout=2m",
            "--log.level=warn",
        ]
        process = stack.enter_context(process_of(command, folder / "prometheus.log"))
        url = f"http://127.0.0.1:{own_port}"
        for _ in range(300):
            if process.poll() is not None:
                raise ForesailError(f"Prometheus ended: {_tail(folder / 'prometheus.log')}", "bench tick")
            if _answers(url):
                break
            pause(0.1)
        yield url


def _config(port: str, parts: int, interval_s: float) -> str:
    targets = "".join(
        f"  - targets: ['127.0.0.1:{port}']\n    labels: {{__metrics_path__: '/{part}', instance: 'part-{part}'}}\n"
        for part in range(parts)
    )
    return (
        f"global: {{scrape_interval: {interval_s:g}s, scrape_timeout: {interval_s:g}s}}\n"
        f"scrape_configs:\n- job_name: engines\n  honor_labels: true\n  static_configs:\n{targets}"
    )


@contextmanager
def process_of(command: Sequence[str], log: Path, *, talks: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in a group of its own, and end the group after; one that ``talks`` has pipes to us."""
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own module, and the binary found on the PATH
            command,
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else file,
            stderr=file,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                    process.wait(timeout=5.0)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue
                break
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


def next_line(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the next line that a process says.

    Raises:
        ForesailError: If it ends without one.
    """
    line = process.stdout.readline().strip().decode() if process.stdout else ""
    if not line:
        raise ForesailError(f"a process of the benchmark has ended: {_tail(log)}", "bench tick")
    return line


def pause(seconds: float) -> None:
    """Let time pass."""
    threading.Event().wait(seconds)


def _tail(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split())[-300:]


def _free_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _answers(url: str) -> bool:
    import requests

    try:
        return requests.get(f"{url}/-/ready", timeout=1.0).ok
    except requests.RequestException:
        return False
