"""Which series does the newest decision make: what pools should have, what load is forecast, how good forecasts were.

The names that start with ``wva_`` are those of llm-d's Workload Variant Autoscaler, with its labels ``variant_name``
(the scale target), ``namespace`` and ``accelerator_type``: KServe, KEDA and HPA set-ups that read them keep working.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.forecast_score import ForecastScore
from controller.ports import TickRecord
from controller.telemetry_settings import TelemetrySettings
from forecasting.forecast import LoadForecast
from forecasting.series import CHANNELS
from policies.decisions import Decision
from policies.fleet import FleetState, Phase, PoolKey, PoolState

MAX_LABEL = 200
"""Names come from a platform that may be anybody's."""

Labels: TypeAlias = tuple[str, ...]
Sample: TypeAlias = tuple[Labels, float]

_POOL = ("model", "pool", "role")
_VARIANT = ("variant_name", "namespace", "accelerator_type")


class _Family(NamedTuple):
    """A metric with its samples."""

    name: str
    text: str
    labels: Labels
    samples: Sequence[Sample]
    counts: bool = False


class Recommended(NamedTuple):
    """What the newest decision says others should scale to.

    Attributes:
        targets: Key of each pool that is ours, by namespace and name of its scale target; none that two pools share.
        pools: Keys of all pools that are ours.
        desired: Replicas by key, also of pools that are not ours; empty where the decision is too old to be acted upon,
            or there is none.
    """

    targets: Mapping[tuple[str, str], str]
    pools: Collection[str]
    desired: Mapping[str, int]


@dataclass(slots=True)
class _Tally:
    """How the forecasts of one model at one lead turned out so far."""

    scored: int = 0
    within: Counter[float] = field(default_factory=Counter)
    error_ratio: float = math.nan


class FleetSeries(Collector):
    """Makes the series at each scrape. ``show`` is called by the loop, ``collect`` by whoever scrapes."""

    def __init__(self, settings: TelemetrySettings, elapsed: Callable[[], float]) -> None:
        self._settings, self._elapsed = settings, elapsed
        self._accelerators: Mapping[str, str] = {}
        self._fresh_s = math.inf
        self._scaled: frozenset[str] = frozenset()
        self._shown: tuple[TickRecord, float] | None = None
        self._figures: tuple[Mapping[str, int], float] = {}, -math.inf
        self._targets: Mapping[tuple[str, str], str] = {}
        self._tallies: dict[tuple[str, float], _Tally] = {}
        self._skills: Mapping[Labels, float] = {}

    def configure(
        self,
        settings: TelemetrySettings,
        accelerators: Mapping[str, str],
        fresh_s: float,
        scaled: Collection[str] = (),
    ) -> None:
        """Publish as ``settings`` say.

        Args:
            settings: Names, levels and leads.
            accelerators: GPU type of each pool that is ours, by its key.
            fresh_s: Age up to which a replica's metrics count as reported, in seconds.
            scaled: Keys of those whose number of replicas is to be set by us.
        """
        self._settings, self._accelerators, self._fresh_s = settings, accelerators, fresh_s
        self._scaled = frozenset(scaled)
        targets = {key: self._target_of(PoolKey.parse(key)) for key in accelerators}
        times = Counter(targets.values())
        self._targets = {(place, name): key for key, (name, place) in targets.items() if times[name, place] == 1}

    def show(self, record: TickRecord, scores: Collection[ForecastScore]) -> None:
        """Publish what ``record`` decided from now on, and count what became of earlier forecasts."""
        models = set(record.fleet.models) if record.fleet else set()
        tallies = {key: tally for key, tally in self._tallies.items() if key[0] in models}
        for score in scores:
            tally = tallies.setdefault((score.model, score.lead_s), _Tally())
            tally.scored += 1
            tally.error_ratio = score.error_ratio
            tally.within.update(level for level, within in score.held.items() if within)
        self._tallies = tallies
        self._shown = record, self._elapsed()
        if record.fleet is not None and record.decision is not None:
            figures = {str(key): count for key, count in _desired(record.fleet, record.decision).items()}
            self._figures = figures, self._elapsed()

    def judge(self, skills: Mapping[Labels, float]) -> None:
        """Publish the skill of forecasters by model, lead and role; models that were not judged keep theirs."""
        judged = {labels[0] for labels in skills}
        there = self._models()
        kept = {labels: skill for labels, skill in self._skills.items() if labels[0] in there - judged}
        self._skills = kept | dict(skills)

    def recommended(self) -> Recommended:
        """Return the figures of ``wva_desired_replicas`` by pool, and which pool is meant by which scale target."""
        desired, shown_s = self._figures
        fresh = self._elapsed() - shown_s <= self._settings.publish_for_s
        return Recommended(self._targets, self._accelerators, desired if fresh else {})

    def _models(self) -> set[str]:
        shown = self._shown
        return set() if shown is None or shown[0].fleet is None else set(shown[0].fleet.models)

    def describe(self) -> list[Metric]:
        """Return nothing: what there is depends on the fleet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the series of the newest decision, while it is young enough to be acted upon."""
        dropped = 0
        for family in self._families():
            kept = [s for s in family.samples if math.isfinite(s[1])]
            dropped += max(0, len(kept) - self._settings.max_series)
            kind = CounterMetricFamily if family.counts else GaugeMetricFamily
            made = kind(family.name, family.text, labels=family.labels)
            for values, value in kept[: self._settings.max_series]:
                made.add_metric([label[:MAX_LABEL] for label in values], value)
            yield made
        yield GaugeMetricFamily("foresail_series_dropped", "Series left out: more than telemetry.max_series.", dropped)

    def _families(self) -> Iterator[_Family]:
        shown = self._shown
        if shown is None:
            return
        record, shown_s = shown
        age_s = self._elapsed() - shown_s
        yield _Family("foresail_decision_age_seconds", "Seconds since the last decision.", (), [((), age_s)])
        yield from self._scored()
        if age_s <= self._settings.publish_for_s and record.fleet is not None and record.decision is not None:
            yield from self._of_pools(record.fleet, record.decision)
            yield from self._of_models(record.fleet)
            yield from self._of_forecasts(record.forecasts)

    def _of_pools(self, fleet: FleetState, decision: Decision) -> Iterator[_Family]:
        ours = [pool for pool in fleet.pools if str(pool.key) in self._accelerators]
        desired = {key: float(count) for key, count in _desired(fleet, decision).items()}
        keyed = [(pool, (pool.key.model, pool.key.pool, str(pool.key.role))) for pool in ours]
        every = [(pool, (pool.key.model, pool.key.pool, str(pool.key.role))) for pool in fleet.pools]
        yield _Family(
            "foresail_desired_replicas",
            "Replicas that a pool should have, whether or not Foresail may scale it.",
            _POOL,
            [(labels, desired[pool.key]) for pool, labels in keyed],
        )
        yield _Family(
            "foresail_ownership_conflict",
            "1 while somebody else sets the number of replicas of a pool that Foresail is to scale.",
            _POOL,
            [(labels, float(bool(pool.owner) and str(pool.key) in self._scaled)) for pool, labels in keyed],
        )
        yield _Family(
            "foresail_requested_replicas",
            "Replicas that the platform was last asked for.",
            _POOL,
            [(labels, float(pool.desired)) for pool, labels in every],
        )
        yield _Family(
            "foresail_replicas",
            "Replicas by phase.",
            (*_POOL, "phase"),
            [((*labels, phase), float(count)) for pool, labels in every for phase, count in _phases(pool)],
        )
        weights = [(labels, p.weight) for p, labels in every]
        yield _Family("foresail_weight_ratio", "Share of new requests.", _POOL, weights)
        variants = self._variants(ours)
        current = {pool.key: float(_standing(pool)) for pool in ours}
        for name, text, value in (
            ("wva_desired_replicas", "Desired number of replicas of a variant.", desired),
            ("wva_current_replicas", "Current number of replicas of a variant.", current),
            (
                "wva_desired_ratio",
                "Desired over current replicas; desired where there are none.",
                {key: desired[key] / (current[key] or 1.0) for key in current},
            ),
        ):
            samples = [(variants[p.key], value[p.key]) for p in ours if p.key in variants]
            yield _Family(name, text, _VARIANT, samples)

    def _variants(self, pools: Sequence[PoolState]) -> Mapping[object, Labels]:
        """Return the labels of each pool; none for two pools of one name, whose counts nobody could tell apart."""
        labels = {p.key: (*self._target_of(p.key), self._accelerators[str(p.key)]) for p in pools}
        times = Counter(label[:2] for label in labels.values())
        return {key: label for key, label in labels.items() if times[label[:2]] == 1}

    def _target_of(self, key: PoolKey) -> tuple[str, str]:
        """Return the name and namespace of the scale target."""
        namespace, slash, name = self._settings.variants.get(str(key), key.pool).rpartition("/")
        return name, namespace if slash else self._settings.namespace

    def _of_models(self, fleet: FleetState) -> Iterator[_Family]:
        yield _Family(
            "foresail_coverage_ratio",
            "Share of serving replicas with fresh metrics.",
            ("model",),
            [((model,), fleet.coverage_ratio(model, self._fresh_s)) for model in fleet.models],
        )
        rates = [
            ((model, _word(channel)), float(getattr(demand, channel)))
            for model, demand in fleet.demand.items()
            for channel in CHANNELS
        ]
        yield _Family("foresail_demand_per_second", "Offered load.", ("model", "channel"), rates)
        attained = [((model,), level.attainment_ratio) for model, level in fleet.service.items()]
        text = "Share of requests that met the objective."
        yield _Family("foresail_attainment_ratio", text, ("model",), attained)
        missing = [((), float(len(fleet.missing)))]
        yield _Family("foresail_signals_missing", "Signals expected and not there.", (), missing)

    def _of_forecasts(self, forecasts: Mapping[str, LoadForecast]) -> Iterator[_Family]:
        labels = ("model", "channel", "level", "lead_s")
        rates, peaks = [], []
        for model, forecast in forecasts.items():
            for lead_s in (lead for lead in self._settings.forecast_leads_s if lead <= forecast.horizon_s + 1e-9):
                step = max(0, round(lead_s / forecast.step_s) - 1)
                for level in self._settings.forecast_levels:
                    rate = forecast.at_level(level)[step]
                    peak = forecast.peak(level, forecast.start_at + (step + 1) * forecast.step_s)
                    for index, channel in enumerate(CHANNELS):
                        named = (model, _word(channel), f"{level:g}", f"{lead_s:g}")
                        rates.append((named, float(rate[index])))
                        peaks.append((named, float(peak[index])))
        yield _Family(
            "foresail_forecast_per_second", "Load forecast for the step that ends after the lead.", labels, rates
        )
        yield _Family("foresail_forecast_peak_per_second", "Largest load forecast until then.", labels, peaks)

    def _scored(self) -> Iterator[_Family]:
        of_lead = ("model", "lead_s")
        scored, within, errors = [], [], []
        for (model, lead_s), tally in list(self._tallies.items()):
            named = (model, f"{lead_s:g}")
            scored.append((named, float(tally.scored)))
            errors.append((named, tally.error_ratio))
            within += [((*named, f"{level:g}"), float(tally.within[level])) for level in self._settings.forecast_levels]
        yield _Family(
            "foresail_forecast_error_ratio",
            "Median forecast of requests/s minus what came, over what came.",
            of_lead,
            errors,
        )
        yield _Family("foresail_forecasts_scored", "Forecasts whose time has come.", of_lead, scored, counts=True)
        there = self._models()
        skills = [(labels, skill) for labels, skill in self._skills.items() if labels[0] in there]
        yield _Family(
            "foresail_workload_skill_ratio",
            "Share of the last value's loss on the peak up to the lead that a forecaster saves.",
            ("model", "lead_s", "role"),
            skills,
        )
        text = "Forecasts that no more requests came than."
        yield _Family("foresail_forecasts_within", text, (*of_lead, "level"), within, counts=True)


def _desired(fleet: FleetState, decision: Decision) -> Mapping[PoolKey, int]:
    """Return what each pool should have: what is planned for it, or what there is asked for already."""
    planned = {plan.pool: plan.desired for plan in decision.scaling}
    return {pool.key: planned.get(pool.key, pool.desired) for pool in fleet.pools}


def _phases(pool: PoolState) -> list[tuple[str, int]]:
    """Return how many replicas are in each phase, zeros included: a series that comes and goes cannot be summed up."""
    counts = Counter(replica.phase for replica in pool.replicas)
    return [(str(phase), counts[phase]) for phase in Phase]


def _word(channel: str) -> str:
    """Return what a channel counts; the metric's name says that it is a rate."""
    return channel.removesuffix("_per_s")


def _standing(pool: PoolState) -> int:
    return sum(replica.phase is not Phase.DRAINING for replica in pool.replicas)
