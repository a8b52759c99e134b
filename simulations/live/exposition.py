"""What does a scrape of an emulated engine get: its own metrics, which may freeze, and those of its GPUs?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from simulations.live.engine_metrics import EngineMetrics, HttpCount
from simulations.live.gpu_metrics import EmulatedGpus
from simulations.live.timed_engine import TimedEngine


class Exposition:
    """What one engine exports."""

    def __init__(
        self, metrics: EngineMetrics, timed: TimedEngine, answered: Mapping[HttpCount, int], gpus: EmulatedGpus
    ) -> None:
        self._engine = CollectorRegistry(auto_describe=False)
        self._engine.register(_Families(metrics, timed, answered))
        ProcessCollector(registry=self._engine)
        self._gpus = CollectorRegistry(auto_describe=False)
        self._gpus.register(_GpuFamilies(gpus, timed))
        self._frozen: _Frozen | None = None

    def freeze(self, frozen: bool) -> None:
        """Let the engine's own metrics stay as they are now, or move again; its GPUs have an exporter of their own."""
        self._frozen = _Frozen(tuple(self._engine.collect())) if frozen else None

    def text(self) -> tuple[str, bytes]:
        """Return content type and body, always as Prometheus text.

        To a Prometheus 2 that asks for OpenMetrics, prometheus_client 0.22 and later writes ``vllm:`` as ``vllm_``
        (its issue 1177). Deployments show both names; here the native ones are wanted.
        """
        engine = generate_latest(self._engine if self._frozen is None else self._frozen)
        return CONTENT_TYPE_PLAIN_0_0_4, engine + generate_latest(self._gpus)


class _Families(Collector):
    """The engine's metrics for the registry."""

    def __init__(self, metrics: EngineMetrics, timed: TimedEngine, answered: Mapping[HttpCount, int]) -> None:
        self._metrics, self._timed, self._answered = metrics, timed, answered

    def collect(self) -> Iterable[Metric]:
        """Yield them as they stand."""
        return self._metrics.families(self._timed, self._answered)


class _GpuFamilies(Collector):
    """The figures of the engine's GPUs for the registry."""

    def __init__(self, gpus: EmulatedGpus, timed: TimedEngine) -> None:
        self._gpus, self._timed = gpus, timed

    def collect(self) -> Iterable[Metric]:
        """Yield them as they stand."""
        return self._gpus.families(self._timed)


class _Frozen(Collector):
    """What the registry said once."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        """Return it again."""
        return self._families
