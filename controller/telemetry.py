"""What does Foresail say of itself to a metrics store: its loop, its decisions, its forecasts, what others may act on.

What concerns a pool or a model is made anew at every scrape from the newest decision, so that the series of a pool that
is gone are gone with it. What others act on (``foresail_desired_replicas``, ``wva_desired_replicas``) is published for
``publish_for_s`` after the last decision and then no more: an autoscaler that finds no metric holds, one that finds an
old figure would follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from controller.cluster_figures import ClusterFigures
from controller.cluster_series import ClusterSeries, LeaseFigures
from controller.fleet_series import FleetSeries, Recommended
from controller.forecast_score import ForecastScores
from controller.modes import ActionClass, Mode, ModeSettings
from controller.observation import unknown_pods
from controller.plan_expiry import STALE
from controller.ports import TickPhase, TickRecord
from controller.shard_settings import ShardSettings
from controller.telemetry_settings import TelemetrySettings
from forecasting.contest import Standing
from forecasting.drift import DRIFT_KINDS, Drift
from policies.fleet import PoolKey
from policies.settings import PolicySettings

MAX_RULES = 128
"""Rules are words of the program; a policy that made them up would otherwise fill the store."""

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class PhaseClock:
    """Times the phases of a tick with an injected stopwatch; ``taken_s`` holds those of the present one."""

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self._elapsed = elapsed
        self.taken_s: dict[TickPhase, float] = {}

    @contextmanager
    def __call__(self, phase: TickPhase) -> Iterator[None]:
        """Add the time until the end of the ``with`` block to ``phase``."""
        began = self._elapsed()
        try:
            yield
        finally:
            self.taken_s[phase] = self.taken_s.get(phase, 0.0) + self._elapsed() - began


class Telemetry:
    """The registry of one daemon, and what its ticks, reloads and chores add to it."""

    def __init__(self, settings: TelemetrySettings, elapsed: Callable[[], float], version: str = "") -> None:
        """``elapsed`` is a stopwatch in seconds that never goes back."""
        # They would double the counters, for an instant that the process's start says as well.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left out its `-> None`
        self.registry = CollectorRegistry(auto_describe=False)
        self.phases = PhaseClock(elapsed)
        self._elapsed, self._ended_s = elapsed, elapsed()
        self._rules: set[str] = set()
        counter, gauge = self._counter, self._gauge
        self._ticks = counter("foresail_ticks", "Ticks by what came of them.", "outcome")
        self._took = Histogram(
            "foresail_tick_seconds",
            "Time that a tick and its phases took.",
            ["phase"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._reasons = counter("foresail_decision_reasons", "Reasons that rules left.", "rule")
        self._acts = counter("foresail_acts", "Acts by what became of them.", "act", "outcome")
        self._stale = counter(
            "foresail_stale_plans", "Acts left out since what they were planned on had changed.", "act"
        )
        self._unknown = counter(
            "foresail_unknown_pods", "Pods that metrics told of and the cluster did not know, at each tick; ignored."
        )
        self._gaps = counter("foresail_audit_gaps", "Ticks that could not be recorded; nothing was done in them.")
        self._behind = gauge("foresail_audit_behind", "1 while the audit log refuses records.")
        self._bugs = gauge("foresail_bugs_in_a_row", "Ticks in a row that an error ended which nobody foresaw.")
        self._skipped = counter("foresail_ticks_skipped", "Ticks left out because the one before them still ran.")
        self._reloads = counter("foresail_config_reloads", "Reloads of the settings.", "result")
        self._current = gauge("foresail_config_current", "1 while the settings in use are those of the file.")
        self._chores = counter("foresail_chores", "Work beside the ticks, by what became of it.", "chore", "result")
        self._current.set(1)
        self._leader = gauge("foresail_leader", "1 while this process may act, 0 while it stands by for another one.")
        self._leader.set(1)
        role = ("role", "version")
        self._skill = gauge("foresail_forecaster_skill_ratio", "Share of the last value's loss that it saves.", *role)
        self._missed = gauge("foresail_forecaster_missed_ratio", "Share of peaks over its 0.95 bound.", *role)
        self._judged = gauge("foresail_forecaster_judged", "Past forecasts that this rests on.", *role)
        self._drift = gauge("foresail_forecast_drift", "1 while forecasts or loads drift in this way.", "kind")
        self._roll_backs = counter("foresail_champion_rollbacks", "Champions that lost their place in service.")
        age = gauge("foresail_loop_age_seconds", "Seconds since the last tick ended.")
        age.set_function(lambda: self.age_s)
        Gauge("foresail_build_info", "Version that runs.", ["version"], registry=self.registry).labels(version).set(1)
        self._series = FleetSeries(settings, elapsed)
        self.registry.register(self._series)
        self.configure(settings, PolicySettings())

    def configure(self, settings: TelemetrySettings, policy: PolicySettings, modes: ModeSettings | None = None) -> None:
        """Publish as ``settings`` say, of the pools that ``policy`` manages; without ``modes`` none is scaled."""
        self._scores = ForecastScores(settings.forecast_leads_s, settings.forecast_levels, policy.tick_s / 2)
        accelerators = {key: pool.profile.gpu.upper() for key, pool in policy.pools.items()}
        self._series.configure(settings, accelerators, policy.guardrails.max_metrics_age_s, _scaled(policy, modes))

    def show_leader(self, leads: Callable[[], bool]) -> None:
        """Publish whether this process acts, of several."""
        self._leader.set_function(lambda: float(leads()))

    def show_shard(self, shard: ShardSettings) -> None:
        """Publish which part of the workloads this process has, and how many parts there are to be."""
        labels = str(shard.index), str(shard.of)
        text = "Which part of the workloads this process has, as labels."
        Gauge("foresail_shard", text, ["index", "of"], registry=self.registry).labels(*labels).set(1)
        Gauge("foresail_shards", "Parts of the workloads in all.", registry=self.registry).set(shard.of)

    def show_cluster(self, figures: Callable[[], ClusterFigures], lease: Callable[[], LeaseFigures | None]) -> None:
        """Publish how the watches of the platform do, and what comes of the lease; both are called at each scrape."""
        self.registry.register(ClusterSeries(figures, lease))

    def recommended(self) -> Recommended:
        """Return what others should scale to, as the newest decision says; to be called from any thread."""
        return self._series.recommended()

    @property
    def age_s(self) -> float:
        """Seconds since the last tick ended, or since the start; a standby's ticks end without a look."""
        return self._elapsed() - self._ended_s

    def tick_ended(self, record: TickRecord | None, outcome: str, whole_s: float, bugs_in_a_row: int) -> None:
        """Count a tick; ``record`` is None when a bug ended it."""
        self._ended_s = self._elapsed()
        self._ticks.labels(outcome).inc()
        self._took.labels("whole").observe(whole_s)
        for phase, taken_s in self.phases.taken_s.items():
            self._took.labels(phase).observe(taken_s)
        self.phases.taken_s = {}
        self._bugs.set(bugs_in_a_row)
        if record is not None:
            self._count(record)

    def _count(self, record: TickRecord) -> None:
        self._behind.set(bool(record.unrecorded))
        if record.unrecorded:
            self._gaps.inc()
        for result in record.results:
            self._acts.labels(result.act, result.outcome).inc()
            if result.detail.startswith(STALE):
                self._stale.labels(result.act).inc()
        if record.fleet is not None:
            self._unknown.inc(unknown_pods(record.fleet.missing))
        if record.decision is None or record.fleet is None:
            return
        for reason in record.decision.reasons:
            self._reasons.labels(self._known_rule(reason.rule)).inc()
        self._scores.forget(self._scores.models - set(record.fleet.models))
        self._series.show(record, self._scores.add(record.at, record.forecasts, record.fleet.demand))

    def skipped(self) -> None:
        """Count a tick that was left out because the one before it still ran."""
        self._skipped.inc()

    def reloaded(self, result: str, current: bool) -> None:
        """Count a reload: ``applied`` or ``refused``."""
        self._reloads.labels(result).inc()
        self._current.set(current)

    def skill_seen(
        self,
        standings: Mapping[str, Standing],
        versions: Mapping[str, str],
        found: Sequence[Drift],
        by_workload: Mapping[tuple[str, ...], float],
    ) -> None:
        """Publish how forecasters did, and what drifted.

        Args:
            standings: By role.
            versions: Of the roles that have one.
            found: What drifted.
            by_workload: Skill by model, lead and role.
        """
        self._series.judge(by_workload)
        for gauge in (self._skill, self._missed, self._judged):
            gauge.clear()
        for role, standing in standings.items():
            labels = role, versions.get(role, "")
            self._judged.labels(*labels).set(standing.forecasts)
            if standing.forecasts:
                self._skill.labels(*labels).set(standing.skill)
                self._missed.labels(*labels).set(standing.miss_ratio)
        for kind in DRIFT_KINDS:
            self._drift.labels(kind).set(any(one.kind == kind for one in found))

    def rolled_back(self) -> None:
        """Count a champion that lost its place."""
        self._roll_backs.inc()

    def chore_done(self, chore: str, result: str) -> None:
        """Count work beside the ticks: ``done``, ``nothing`` or ``failed``."""
        self._chores.labels(chore, result).inc()

    def _known_rule(self, rule: str) -> str:
        if rule not in self._rules and len(self._rules) >= MAX_RULES:
            return "other"
        self._rules.add(rule)
        return rule

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)


def _scaled(policy: PolicySettings, modes: ModeSettings | None) -> frozenset[str]:
    """Return the keys of the pools whose number of replicas Foresail may set, by itself or once that is approved."""
    if modes is None:
        return frozenset()
    acts = {Mode.APPROVE, Mode.AUTO}
    return frozenset(key for key in policy.pools if modes.of(ActionClass.SCALING, PoolKey.parse(key).model) in acts)
