"""How fast is Foresail on this machine? ``foresail bench tick``: a real Prometheus, a large fleet, the real loop."""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.errors import BadInput, ForesailError

if TYPE_CHECKING:
    from controller.adapters.prometheus import PrometheusSource
    from controller.loop import ControlLoop

SCRAPE_INTERVAL_S = 15.0
_SCRAPES_BEFORE = 3
_REPLICAS_PER_TARGET = 250
_MISSING = "there is no prometheus on the PATH"
_INSTALL = "apt-get install --no-install-recommends prometheus"


@click.command("tick")
@click.option("--workloads", type=click.IntRange(1, 10_000), default=1_000, show_default=True, metavar="N",
              help="Models, with a pool each.")  # fmt: skip
@click.option("--replicas", type=click.IntRange(1, 100_000), default=10_000, show_default=True, metavar="N",
              help="Replicas of all of them.")  # fmt: skip
@click.option("--ticks", type=click.IntRange(2, 10_000), default=20, show_default=True, metavar="N",
              help="Ticks measured.")  # fmt: skip
@click.option("--history-s", type=click.FloatRange(0.0), default=86_400.0, show_default=True, metavar="S",
              help="Load history that every workload has.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def tick(workloads: int, replicas: int, ticks: int, history_s: float, as_json: bool) -> int:
    """Time whole ticks, from Prometheus' answer to the decision, of a fleet of vLLM engines.

    A real Prometheus scrapes a web server that speaks for all replicas; the control loop reads it as the daemon does.
    The platform and the gateway are values in memory, nothing is recorded and nothing is written.
    """
    if replicas < workloads:
        raise BadInput(f"{replicas} replicas are fewer than {workloads} workloads", "--replicas", "give each one")
    figures = measure_ticks(workloads, replicas, ticks, history_s, None if as_json else _tell)
    if as_json:
        click.echo(json.dumps(figures, indent=2, allow_nan=False))
        return 0
    click.echo(f"{workloads:,} workloads, {replicas:,} replicas, {ticks} ticks")
    click.echo(
        f"tick  p50 {figures['tick_p50_s']:.3f} s, p99 {figures['tick_p99_s']:.3f} s, {figures['rss_mb']:.0f} MB"
    )
    for name, phase in figures["phases"].items():
        click.echo(f"  {name:9} p50 {phase['p50_s']:.3f} s, p99 {phase['p99_s']:.3f} s   {_PHASES[name]}")
    return 0


_PHASES = {
    "query": "until all answers of Prometheus are there as rows",
    "parse": "rows to arrays to measurements",
    "observe": "joined with the platform and the routes, checked",
    "forecast": "learn the load, forecast every workload",
    "decide": "everything that decide() does",
}


def measure_ticks(
    workloads: int,
    replicas: int,
    ticks: int,
    history_s: float,
    tell: Callable[[str], None] | None = None,
    scrape_interval_s: float = SCRAPE_INTERVAL_S,
) -> dict[str, Any]:
    """Return the figures of ``bench tick --json``; ``tell`` is told what is going on.

    Raises:
        BadInput: If there is no Prometheus.
        ForesailError: If it does not come up, or does not see the fleet.
    """
    from controller.adapters.process_memory import peak_rss_mb

    say = tell or (lambda _: None)
    with ExitStack() as stack:
        url = stack.enter_context(_prometheus_of(workloads, replicas, scrape_interval_s, say))
        loop, source, watch = _loop(url, workloads, replicas, history_s)
        stack.callback(source.close)
        _wait_for_scrapes(source, replicas, scrape_interval_s, say)
        say(f"{ticks} ticks")
        for _ in range(ticks + 1):
            watch.begin()
            record = loop.tick()
            if record.decision is None:
                raise ForesailError(f"a tick could not observe the fleet: {record.error}", "bench tick")
            watch.end(source.took_s)
        demand = len(record.fleet.demand) if record.fleet else 0
        if demand < workloads:
            raise ForesailError(f"the load of only {demand} of {workloads} workloads was seen", "bench tick")
    totals = watch.totals_s[1:]  # the first looks up names and fills caches
    return {
        "workloads": workloads,
        "replicas": replicas,
        "ticks": ticks,
        "history_s": history_s,
        **_quantiles(totals, "tick_"),
        "rss_mb": round(peak_rss_mb(), 1),
        "phases": {name: _quantiles([phase[name] for phase in watch.phases_s[1:]]) for name in _PHASES},
    }


def _quantiles(values: Sequence[float], prefix: str = "") -> dict[str, float]:
    import numpy as np

    return {
        f"{prefix}p50_s": round(float(np.quantile(values, 0.5)), 4),
        f"{prefix}p99_s": round(float(np.quantile(values, 0.99)), 4),
    }


def _tell(what: str) -> None:
    click.echo(what, err=True)


# ------------------------------------------------------------------------------------------ what is measured


class _Stopwatch:
    """How long each tick took, as a whole and by phase."""

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self.elapsed = elapsed
        self.totals_s: list[float] = []
        self.phases_s: list[dict[str, float]] = []
        self._began = 0.0
        self._spent: dict[str, float] = {}

    def begin(self) -> None:
        self._began, self._spent = self.elapsed(), {"forecast": 0.0, "decide": 0.0}

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        began = self.elapsed()
        yield
        self._spent[phase] += self.elapsed() - began

    def end(self, metrics_s: Mapping[str, float]) -> None:
        total = self.elapsed() - self._began
        self.totals_s.append(total)
        known = {**metrics_s, **self._spent}
        self.phases_s.append({**known, "observe": total - math.fsum(known.values())})


def _loop(
    url: str, workloads: int, replicas: int, history_s: float
) -> tuple[ControlLoop, PrometheusSource, _Stopwatch]:
    from controller.actuation import Actuator
    from controller.adapters.prometheus import PrometheusSource
    from controller.adapters.prometheus_http import PrometheusHttp
    from controller.adapters.prometheus_settings import PrometheusSettings
    from controller.adapters.system_clock import SystemClock
    from controller.bench_world import NoAudit, NoNotifier, StillFleet, TimedForecasts, TimedPolicy, load_before
    from controller.forecasts import ForecastSettings, Horizon
    from controller.loop import ControlLoop
    from controller.modes import ModeSettings
    from controller.ports import Sources
    from policies.decide import Foresail

    clock = SystemClock()
    watch = _Stopwatch(clock.elapsed)
    world = StillFleet(workloads, replicas, clock.now())
    settings = PrometheusSettings(url=url, query_timeout_s=60.0, read_timeout_s=120.0)
    source = PrometheusSource(PrometheusHttp(settings, clock.elapsed), settings, world.policy, clock.elapsed)
    tick_s = world.policy.tick_s
    before = load_before(world.models, clock.now(), tick_s, history_s)
    loop = ControlLoop(
        Sources(clock, source, world, world),
        NoAudit(),
        Actuator(clock, world, world, NoNotifier(), ModeSettings(), lambda: False),
        TimedForecasts(watch.of, tick_s, ForecastSettings(), before),
        Horizon(world.policy.lead_time, tick_s),
        TimedPolicy(watch.of, Foresail(world.policy)),
    )
    return loop, source, watch


def _wait_for_scrapes(source: PrometheusSource, replicas: int, interval_s: float, say: Callable[[str], None]) -> None:
    """Wait until every replica has been scraped often enough for rates."""
    from controller.adapters.system_clock import SystemClock
    from controller.errors import ObservationError

    clock = SystemClock()
    say(f"Prometheus scrapes {replicas:,} replicas every {interval_s:g} s; {_SCRAPES_BEFORE} times before")
    _pause(interval_s * _SCRAPES_BEFORE)
    until = clock.elapsed() + 30.0 + 10 * interval_s
    while True:
        seen = 0
        try:
            seen = len(source.read(clock.now()).replicas)
        except ObservationError:
            if clock.elapsed() > until:
                raise
        if seen == replicas:
            return
        if clock.elapsed() > until:
            raise ForesailError(f"Prometheus sees only {seen:,} of {replicas:,} replicas", "bench tick")
        _pause(interval_s / 3)


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


# ------------------------------------------------------------------------------------------------ processes


@contextmanager
def _prometheus_of(workloads: int, replicas: int, interval_s: float, say: Callable[[str], None]) -> Iterator[str]:
    """Run a Prometheus that scrapes a made-up fleet, and yield its address; both processes are ended after."""
    binary = shutil.which("prometheus")
    if binary is None:
        raise BadInput(_MISSING, "bench tick", f"install it: {_INSTALL}")
    parts = math.ceil(replicas / _REPLICAS_PER_TARGET)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foresail-bench-")))
        say("starting Prometheus and the fleet that it scrapes")
        command = [sys.executable, "-m", "controller.bench_exposition", str(workloads), str(replicas), str(parts)]
        fleet = stack.enter_context(_process(command, folder / "fleet.log", stdout=subprocess.PIPE))
        port = fleet.stdout.readline().strip().decode() if fleet.stdout else ""
        if not port:
            raise ForesailError(f"the made-up fleet did not start: {_tail(folder / 'fleet.log')}", "bench tick")
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
        process = stack.enter_context(_process(command, folder / "prometheus.log"))
        url = f"http://127.0.0.1:{own_port}"
        for _ in range(300):
            if process.poll() is not None:
                raise ForesailError(f"Prometheus ended: {_tail(folder / 'prometheus.log')}", "bench tick")
            if _answers(url):
                break
            _pause(0.1)
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
def _process(command: Sequence[str], log: Path, stdout: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in a group of its own, and end the group after."""
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own module, and the binary found on the PATH
            command, stdout=file if stdout is None else stdout, stderr=file, start_new_session=True
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
            if process.stdout:
                process.stdout.close()


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
