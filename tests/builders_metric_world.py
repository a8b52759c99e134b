"""A fleet whose metrics are written into a real Prometheus on virtual time: vLLM engines behind an Envoy.

Requests come evenly and go to the engines that run in turn; each is given a first token after ``TTFT_S`` and ends
after ``SERVICE_S``. Everything is counted from the list of requests, so that any instant can be asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from controller.adapters.prometheus import PrometheusSource
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.ports import MetricSource
from policies.settings import PolicySettings
from tests.builders import pool_settings
from tests.builders_prometheus import (
    STALE,
    Labels,
    RunningPrometheus,
    Sample,
    VllmReplica,
    client_of,
    free_port,
    write,
)

MODEL, POOL = "main-model", "main"
INTERVAL_S, DELAY_S = 15.0, 1.0
TTFT_S, SERVICE_S = 0.3, 1.3
RESTART_S = 100.0
STEPS_PER_S = 30.0
LASTS_S = 600.0

_epochs = itertools.count(1_000_000, 20_000)
_WITHOUT_BOUND = 1e12
"""The server's own clock is that of today, and virtual time is not."""


@dataclass
class _Life:
    begins_at: float
    ends_at: float = math.inf


class WrittenWorld:
    """Two replicas, ``main-0`` and ``main-1``, in the pool ``main``."""

    model = MODEL

    def __init__(self, server: RunningPrometheus, requests_per_s: float, prompt: int, output: int) -> None:
        self._server = server
        self.epoch_at = float(next(_epochs))
        self._now = self.epoch_at
        self._lengths = (float(prompt), float(output))
        count = int(LASTS_S * requests_per_s)
        self._arrivals = self.epoch_at + np.arange(count) / requests_per_s + 0.05
        self._lives: dict[str, list[_Life]] = {name: [_Life(self.epoch_at)] for name in ("main-0", "main-1")}
        self._lost_until = self._frozen_until = -math.inf
        self._failing_from = self._cut_off_from = math.inf
        self._written: dict[str, set[tuple[tuple[str, str], ...]]] = {}
        policy = PolicySettings(pools={f"{MODEL}/{POOL}/unified": pool_settings()})
        self._sources = [
            PrometheusSource(client_of(url, attempts=1), self._settings(url), policy, lambda: 0.0)
            for url in (server.url, f"http://127.0.0.1:{free_port()}")
        ]
        self._scrape_all(self.epoch_at - INTERVAL_S, self.epoch_at)

    @staticmethod
    def _settings(url: str) -> PrometheusSettings:
        return PrometheusSettings(url=url, max_clock_skew_s=_WITHOUT_BOUND, probe_interval_s=20.0)

    @property
    def source(self) -> MetricSource:
        """Where the metrics are; while they are lost, where nobody listens."""
        return self._sources[self._now < self._lost_until]

    def now(self) -> float:
        return self._now

    def wait(self, seconds: float) -> None:
        self._scrape_all(self._now - DELAY_S, self._now + seconds - DELAY_S)
        self._now += seconds

    def crash_a_replica(self) -> str:
        self._lives["main-1"][-1].ends_at = self._now
        self._lives["main-1"].append(_Life(self._now + RESTART_S))
        return "main-1"

    def fail_requests(self) -> str:
        self._failing_from = self._now
        return "main-1"

    def cut_off(self) -> str:
        self._cut_off_from = self._now
        return "main-1"

    def lose(self, seconds: float) -> None:
        self._lost_until = self._now + seconds

    def freeze(self, seconds: float) -> None:
        self._frozen_until = self._now + seconds

    def close(self) -> None:
        for source in self._sources:
            source.close()

    # Scraping

    def _scrape_all(self, after: float, until: float) -> None:
        """Write what was scraped after one instant and up to another."""
        samples: list[Sample] = []
        for target, offset_s in (("envoy", 0.0), ("main-0", 4.0), ("main-1", 9.0)):
            first = math.floor((after - self.epoch_at - offset_s) / INTERVAL_S) + 1
            last = math.floor((until - self.epoch_at - offset_s) / INTERVAL_S)
            for number in range(first, last + 1):
                at = self.epoch_at + number * INTERVAL_S + offset_s
                if at >= self.epoch_at and at + DELAY_S >= self._frozen_until:
                    samples += self._scraped(target, at)
        write(self._server, samples)

    def _scraped(self, target: str, at: float) -> Iterator[Sample]:
        """Yield the samples of one scrape, and the end of every series that it no longer has."""
        figures = self._envoy(at) if target == "envoy" else self._engine(target, at)
        own = {"instance": "10.0.9.9:9901"} if target == "envoy" else self._labels(target)
        found = set()
        for name, labels, value in figures:
            whole = {**labels, **own, "__name__": name}
            found.add(tuple(sorted(whole.items())))
            yield Sample(whole, at, value)
        for gone in self._written.get(target, set()) - found:
            yield Sample(dict(gone), at, STALE)
        self._written[target] = found

    def _labels(self, name: str) -> Labels:
        return {"pod": name, "pool": POOL, "model_name": MODEL, "instance": self._address(name)}

    @staticmethod
    def _address(name: str) -> str:
        return f"10.0.0.{name[-1]}:8000"

    def _life(self, name: str, at: float) -> _Life | None:
        return next((life for life in self._lives[name] if life.begins_at <= at < life.ends_at), None)

    def _served(self, name: str, at: float) -> np.ndarray:
        """Return when the requests arrived that a replica was sent in its present life, up to ``at``."""
        life = self._life(name, at)
        if life is None:
            return np.zeros(0)
        arrivals = self._arrivals[(self._arrivals >= life.begins_at) & (self._arrivals <= at)]
        other = next(other for other in self._lives if other != name)
        alone = np.array([self._life(other, arrival) is None for arrival in arrivals], dtype=bool)
        turn = (np.searchsorted(self._arrivals, arrivals) % 2).astype(bool) == (name == "main-1")
        return np.asarray(arrivals[alone | turn])

    def _engine(self, name: str, at: float) -> Iterator[tuple[str, Labels, float]]:
        life = self._life(name, at)
        yield "up", {}, float(life is not None)
        if life is None:
            return
        arrivals = self._served(name, at)
        finished = float((arrivals + SERVICE_S <= at).sum())
        busy_s = min(at, self.epoch_at + LASTS_S) - life.begins_at
        running = len(arrivals) - finished
        replica = VllmReplica(MODEL, running, 0.0, 0.01 * running, STEPS_PER_S * busy_s, finished, ttft_s=TTFT_S)
        replica.prompt_tokens, replica.output_tokens = self._lengths
        yield from replica.figures()

    def _envoy(self, at: float) -> Iterator[tuple[str, Labels, float]]:
        cluster = {"envoy_cluster_name": POOL}
        yield "up", {}, 1.0
        yield "envoy_cluster_upstream_rq_total", cluster, float((self._arrivals <= at).sum())
        for name in ("cx_none_healthy", "rq_pending_overflow", "rq_retry", "rq_pending_active"):
            yield f"envoy_cluster_upstream_{name}", cluster, 0.0
        for name in self._lives:
            if self._life(name, at) is not None:
                arrivals = self._served(name, at)
                ended = float((arrivals + SERVICE_S <= at).sum())
                failed = float(((arrivals >= self._failing_from) & (arrivals + SERVICE_S <= at)).sum() // 2)
                failed *= name == "main-1"
                endpoint = {**cluster, "envoy_endpoint_address": self._address(name)}
                yield "envoy_cluster_endpoint_rq_active", endpoint, len(arrivals) - ended
                cut_off = float((arrivals >= self._cut_off_from).sum()) if name == "main-1" else 0.0
                yield "envoy_cluster_endpoint_cx_connect_fail", endpoint, cut_off
                yield "envoy_gateway_requests_ended", {**endpoint, "flags": "-", "code": "200"}, ended - failed
                if failed:  # as at Envoy, there is no series before the first
                    yield "envoy_gateway_requests_ended", {**endpoint, "flags": "-", "code": "500"}, failed
                # What says nothing about the engine: busy, refused as the client's fault, not reached at all.
                yield "envoy_gateway_requests_ended", {**endpoint, "flags": "-", "code": "503"}, 7.0
                yield "envoy_gateway_requests_ended", {**endpoint, "flags": "UF", "code": "502"}, 5.0
