"""Four vLLM engines in real time behind a real Prometheus, and a front that can answer in its stead."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from controller.actuation import Actuator
from controller.adapters.prometheus import PrometheusSource
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.forecasts import ForecastSettings, Horizon, LoadForecasts
from controller.loop import ControlLoop
from controller.modes import ModeSettings
from controller.ports import Clock, Sources, TickRecord
from forecasting.forecaster import FallbackForecaster
from policies.decide import Foresail
from policies.decisions import RestartReplica
from tests.builders import (
    KEY,
    FakeCluster,
    FakeRouter,
    FixedClock,
    ListAudit,
    ListNotifier,
    pool,
    replica,
    settings,
)
from tests.builders_prometheus import (
    CLOCK,
    Pages,
    RunningPrometheus,
    VllmReplica,
    client_of,
    pause,
    text_of,
    wait_until,
)

NAMES = ("r0", "r1", "r2", "r3")
RATE = 2.0
"""Requests per second of each engine."""

Answer = Callable[[BaseHTTPRequestHandler], None]


class Front:
    """Passes questions on to the server behind it, or answers them itself while ``instead`` is set."""

    def __init__(self, url: str) -> None:
        front = self
        self.instead: Answer | None = None
        self._client = client = httpx.Client(base_url=url, timeout=30.0)

        class Passes(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if front.instead is not None:
                    self.close_connection = True
                    front.instead(self)
                    return
                answer = client.get(self.path)
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers["content-type"])
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Passes)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that hangs up is meant
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._client.close()


class ScrapedFleet:
    """Engines that work at ``RATE`` while nobody says otherwise; each is a page that Prometheus scrapes every second.

    Attributes:
        engines: What each shows. A test may change it at any time.
        dead: Names of those whose page answers 500.
        frozen: Names of those whose page does not change.
        spoiled: What is put in the place of a text in every page, to show what no engine would.
    """

    def __init__(self, folder: Path) -> None:
        self.engines: dict[str, VllmReplica] = {}
        self.dead: set[str] = set()
        self.frozen: set[str] = set()
        self.spoiled: dict[str, str] = {}
        self._stop = threading.Event()
        self._pages = Pages()
        self.heal()
        targets = "".join(
            f"  - targets: ['127.0.0.1:{self._pages.port}']\n"
            f"    labels: {{__metrics_path__: /{name}, instance: '10.0.0.{number}:8000', "
            f"pod: {name}, pool: {KEY.pool}, model_name: {KEY.model}}}\n"
            for number, name in enumerate(NAMES)
        )
        self.server = RunningPrometheus(folder, f"scrape_configs:\n- job_name: engines\n  static_configs:\n{targets}")
        self.front = Front(self.server.url)

    def __enter__(self) -> ScrapedFleet:
        threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self.front.close()
        self.server.__exit__(kind, value, at)
        self._pages.close()

    def heal(self) -> None:
        """Let everything be as it should be; counters go on."""
        for name in NAMES:
            known = self.engines.get(name, VllmReplica())
            self.engines[name] = VllmReplica(finished=known.finished, steps=known.steps)
        self.dead, self.frozen, self.spoiled = set(), set(), {}
        self._publish()
        if hasattr(self, "front"):
            self.front.instead = None
            self.server.send(signal.SIGCONT)

    def _work(self) -> None:
        before = CLOCK.elapsed()
        while not self._stop.wait(0.1):
            now = CLOCK.elapsed()
            for engine in self.engines.values():
                engine.finished += RATE * (now - before)
                engine.steps += 30.0 * (now - before)
            before = now
            self._publish()

    def _publish(self) -> None:
        for name, engine in list(self.engines.items()):
            if name in self.dead:
                self._pages.pages[f"/{name}"] = None
            elif name not in self.frozen:
                text = text_of(engine.figures())
                for good, bad in self.spoiled.items():
                    text = text.replace(good, bad)
                self._pages.pages[f"/{name}"] = text


class WatchedLoop:
    """The real loop over the scraped fleet, everything allowed to act, on a cluster that only remembers."""

    def __init__(self, fleet: ScrapedFleet, clock: Clock = CLOCK, **changes: Any) -> None:
        told = {"stale_after_s": 4.0, "probe_interval_s": 3.0, "query_timeout_s": 1.0, "read_timeout_s": 3.0}
        asked = PrometheusSettings.model_validate({"url": fleet.front.url, **told, **changes})
        policy = settings(KEY, least=1, tick_s=1.0)
        self.source = PrometheusSource(client_of(**asked.model_dump()), asked, policy, CLOCK.elapsed)
        members = [replace(replica(name), metrics=None) for name in NAMES]
        self.cluster = FakeCluster(FixedClock(), {KEY: pool(members, weight=0.0)})
        router = FakeRouter({KEY: 1.0})
        self.loop = ControlLoop(
            Sources(clock, self.source, self.cluster, router),
            ListAudit(),
            Actuator(clock, self.cluster, router, ListNotifier(), ModeSettings.all_auto(), lambda: False),
            LoadForecasts(FallbackForecaster(()), policy.tick_s, ForecastSettings()),
            Horizon(policy.lead_time, policy.tick_s),
            Foresail(policy),
        )

    def tick(self) -> TickRecord:
        return self.loop.tick()

    def until(self, condition: Callable[[TickRecord], bool], what: str, at_most_s: float = 20.0) -> TickRecord:
        """Tick twice a second until a record is as expected, and return it."""
        last: list[TickRecord] = []

        def ticked() -> bool:
            pause(0.5)
            last.append(self.tick())
            return condition(last[-1])

        try:
            wait_until(ticked, what, at_most_s)
        except AssertionError as late:
            fleet = last[-1].fleet
            late.add_note(f"error: {last[-1].error}")
            late.add_note(f"missing: {fleet.missing if fleet else ''}, demand: {fleet.demand if fleet else ''}")
            raise
        return last[-1]

    def until_well(self) -> TickRecord:
        """Tick until all engines report and the load is seen as it is."""

        def well(record: TickRecord) -> bool:
            seen = record.fleet
            if seen is None or KEY.model not in seen.demand:
                return False
            reporting = sum(r.metrics is not None for p in seen.pools for r in p.replicas)
            rate = seen.demand[KEY.model].requests_per_s
            return reporting == len(NAMES) and abs(rate - RATE * len(NAMES)) < 0.25 * RATE * len(NAMES)

        return self.until(well, "the loop sees the whole fleet at its load", 40.0)

    @property
    def harm(self) -> list[tuple[str, str]]:
        """What was written that takes capacity away: restarts, cordons, and any scaling of a load that is constant."""
        return [write for write in self.cluster.writes if write[0] in ("restart", "cordon", "scale")]

    def close(self) -> None:
        self.source.close()


def restarts(record: TickRecord) -> list[RestartReplica]:
    return [] if record.decision is None else [r for r in record.decision.remediations if isinstance(r, RestartReplica)]
