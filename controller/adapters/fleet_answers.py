"""What do the answers of one look say, replica by replica and gateway by gateway? Arrays, with what was unusable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from controller.adapters.fleet_queries import PER_ENDPOINT, RARE, SAMPLED_AT, TARGETS, Asked, Part, subject_labels
from controller.adapters.metric_names import Source
from controller.adapters.prometheus_http import Row
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.adapters.series_rows import aligned, keys_of, labels_of, values_of
from forecasting.series import FloatArray
from policies.fleet import PoolKey, Role

_MOST = 1e15
_BOUNDS = {
    "kv_cache_ratio": (0.0, 1.001),  # "perc" and "usage" gauges may exceed one by rounding
    # A GPU that exists draws power and has a clock. Power peaks above its limit for moments; what DCGM cannot read, it
    # tells as a number of 14 digits or more.
    "gpu_power_ratio": (0.001, 2.0),
    "gpu_clock_ratio": (0.001, 2.0),
    "gpu_xid": (0.0, 999.0),
}
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Answers:
    """Rows by what they were asked for; ``at`` is the instant that they are of."""

    at: float
    rows: Mapping[Asked, Sequence[Row]]

    def of(self, source: Source, signal: str, part: Part = "", window_s: float = 0.0) -> Sequence[Row] | None:
        """Return the rows of one query; None when it was not asked, or was refused."""
        return self.rows.get(Asked(source.name, signal, part, window_s))


@dataclass(slots=True)
class Notes:
    """What was there and could not be used, as ``signal:subject`` and why; bounded."""

    told: list[str] = field(default_factory=list)

    def refuse(self, signal: str, keys: Sequence[str], values: FloatArray, wrong: np.ndarray) -> FloatArray:
        """Return ``values`` without those that are ``wrong``, and note which those are."""
        places = np.flatnonzero(wrong)
        if not len(places):
            return values
        self.told += [f"{signal}:{keys[place]} (impossible: {values[place]:g})" for place in places[:_NAMED]]
        if len(places) > _NAMED:
            self.told.append(f"{signal}:{len(places) - _NAMED} more (impossible)")
        return np.where(wrong, np.nan, values)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a replica is scraped: ``up`` is whether the last scrape succeeded."""

    replica: str
    pool: str
    model: str
    address: str
    up: bool


@dataclass(frozen=True, slots=True, eq=False)
class ReplicaTable:
    """All replicas of all engines: position by position name, pool, model and ``float64[N]`` per signal.

    A signal that an engine does not report is NaN; of one that reports failed or aborted requests, none told is zero.
    """

    names: Sequence[str]
    pools: Sequence[str]
    models: Sequence[str]
    sampled_at: FloatArray
    columns: Mapping[str, FloatArray]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class GatewayTable:
    """One figure per gateway process and subject (or endpoint): ``float64[N]`` per signal."""

    keys: Sequence[tuple[str, str]]
    columns: Mapping[str, FloatArray]


def targets(answers: Answers, settings: PrometheusSettings) -> list[Target]:
    """Return where replicas are scraped; raises QueryRefused for malformed rows."""
    rows = answers.rows.get(Asked("", TARGETS), ())
    labels = (settings.replica_label, settings.pool_label, settings.model_label, settings.target_label)
    return [
        Target(name, pool, model, address, up == 1.0)
        for (name, pool, model, address), up in zip(keys_of(rows, labels), values_of(rows).tolist(), strict=True)
    ]


_COLUMNS = (
    ("running_requests", ""),
    ("queued_requests", ""),
    ("kv_cache_ratio", ""),
    ("steps_total", ""),
    ("prompt_tokens_total", ""),
    ("output_tokens_total", ""),
    ("finished_requests_total", ""),
    ("failed_requests_total", ""),
    ("aborted_requests_total", ""),
    ("received_requests_total", ""),
    ("preemptions_total", ""),
    ("tpot_seconds", "sum"),
    ("tpot_seconds", "count"),
    ("ttft_seconds", "p95"),
)  # fmt: skip


def column(signal: str, part: str = "") -> str:
    """Return the name of a column."""
    return f"{signal}_{part}" if part else signal


def replicas(
    answers: Answers, sources: Sequence[Source], known: Sequence[Target], settings: PrometheusSettings, notes: Notes
) -> ReplicaTable:
    """Return what engines say of themselves.

    A replica that two pools or engines claim is left out: nobody can tell which of the two its figures are of.
    Labels that an engine's series lack are those of its target.
    """
    labels = (settings.replica_label, settings.pool_label, settings.model_label)
    parts = []
    claimed: Counter[str] = Counter()
    for source in sources:
        rows = _dated(answers, source, settings.replica_label, settings, notes)
        identities = keys_of(rows, labels)
        claimed.update(name for name, _, _ in identities)
        parts.append((source, identities, values_of(rows)))
    ambiguous = {name for name, count in claimed.items() if count > 1}
    notes.told += [f"ambiguous:{name} (told of twice)" for name in sorted(ambiguous)[:_NAMED]]
    placed = {target.replica: target for target in known}
    tables = [_of_engine(answers, *part, ambiguous, settings, notes) for part in parts]
    identities = [who for found, _, _ in tables for who in found]
    targets_of = [placed.get(name) for name, _, _ in identities]
    return ReplicaTable(
        [name for name, _, _ in identities],
        [pool or (target.pool if target else "") for (_, pool, _), target in zip(identities, targets_of, strict=True)],
        [model or (target.model if target else "") for (*_, model), target in zip(identities, targets_of, strict=True)],
        _joined([sampled for _, sampled, _ in tables]),
        {
            column(signal, part): _joined([columns[column(signal, part)] for _, _, columns in tables])
            for signal, part in _COLUMNS
        },
    )


_Identities = list[tuple[str, ...]]


def _of_engine(
    answers: Answers,
    source: Source,
    identities: _Identities,
    sampled_at: FloatArray,
    ambiguous: set[str],
    settings: PrometheusSettings,
    notes: Notes,
) -> tuple[_Identities, FloatArray, dict[str, FloatArray]]:
    if ambiguous:
        kept = [place for place, (name, *_) in enumerate(identities) if name not in ambiguous]
        identities, sampled_at = [identities[place] for place in kept], sampled_at[kept]
    names = [name for name, *_ in identities]
    index = {name: place for place, name in enumerate(names)}
    columns: dict[str, FloatArray] = {}
    for signal, part in _COLUMNS:
        rows = answers.of(source, signal, part)  # type: ignore[arg-type] # the parts are those of ``Part``
        if rows is None:
            columns[column(signal, part)] = np.full(len(names), np.nan)
            continue
        values = aligned(index, labels_of(rows, settings.replica_label), values_of(rows))
        values = notes.refuse(signal, names, values, impossible(signal, values))
        columns[column(signal, part)] = values
        if signal in RARE:
            columns[signal] = np.nan_to_num(columns[signal])
    return identities, sampled_at, columns


def impossible(signal: str, values: FloatArray) -> np.ndarray:
    """Return which figures no engine could report; NaN is possible, it says nothing."""
    least, most = _BOUNDS.get(signal, (0.0, _MOST))
    wrong: np.ndarray = ~np.isnan(values) & ((values < least) | (values > most))
    return wrong


def _joined(columns: Sequence[FloatArray]) -> FloatArray:
    return np.concatenate(columns) if columns else np.zeros(0)


def by_subject(answers: Answers, source: Source, settings: PrometheusSettings, notes: Notes) -> GatewayTable:
    """Return what a gateway counts per process and model or pool."""
    (label,) = subject_labels(source, settings)
    return _of_gateway(answers, source, (settings.target_label, label), _SUBJECT_SIGNALS, notes)


def by_endpoint(answers: Answers, source: Source, settings: PrometheusSettings, notes: Notes) -> GatewayTable:
    """Return what a gateway counts per process and endpoint."""
    if source.names.endpoint is None:
        return GatewayTable((), {signal: np.zeros(0) for signal in PER_ENDPOINT})
    labels = (settings.target_label, source.names.endpoint.label)
    return _of_gateway(answers, source, labels, PER_ENDPOINT, notes)


_SUBJECT_SIGNALS = ("received_requests_total", "retried_requests_total", "held_requests")


def _of_gateway(
    answers: Answers, source: Source, labels: tuple[str, str], wanted: Sequence[str], notes: Notes
) -> GatewayTable:
    found = {}
    for signal in wanted:
        rows = answers.of(source, signal)
        if rows is not None:
            found[signal] = (
                list(zip(labels_of(rows, labels[0]), labels_of(rows, labels[1]), strict=True)),
                values_of(rows),
            )
    index: dict[tuple[str, str], int] = {}
    for keys, _ in found.values():
        for key in keys:
            index.setdefault(key, len(index))
    names = [" ".join(key) for key in index]
    columns = {signal: np.full(len(index), np.nan) for signal in wanted}
    for signal, (keys, values) in found.items():
        placed = aligned(index, keys, values)
        columns[signal] = notes.refuse(signal, names, placed, impossible(signal, placed))
    return GatewayTable(tuple(index), columns)


def _dated(answers: Answers, source: Source, label: str, settings: PrometheusSettings, notes: Notes) -> Sequence[Row]:
    """Return the rows that say when a source was sampled, without those of no time and of the future.

    Those would never grow old, and what they are of would be believed for ever.
    """
    rows = answers.of(source, SAMPLED_AT) or ()
    sampled_at = values_of(rows)
    wrong = ~(np.isfinite(sampled_at) & (sampled_at <= answers.at + settings.max_clock_skew_s))
    if not wrong.any():
        return rows
    notes.refuse(SAMPLED_AT, labels_of(rows, label), sampled_at, wrong)
    return [row for row, bad in zip(rows, wrong.tolist(), strict=True) if not bad]


def gateway_sampled_at(
    answers: Answers, source: Source, settings: PrometheusSettings, notes: Notes
) -> dict[str, float]:
    """Return when each process of a gateway was scraped."""
    rows = _dated(answers, source, settings.target_label, settings, notes)
    return dict(zip(labels_of(rows, settings.target_label), values_of(rows).tolist(), strict=True))


def model_names(pools: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return which model a pool's name leads to, in any of the ways in which a gateway may call it.

    A bare pool name that two models share leads nowhere.

    Args:
        pools: Model and pool.
    """
    found: dict[str, set[str]] = {}
    for model, pool in pools:
        for name in _spellings(model, pool):
            found.setdefault(name, set()).add(model)
    return {name: next(iter(models)) for name, models in found.items() if len(models) == 1}


def _spellings(model: str, pool: str) -> Iterator[str]:
    yield pool
    yield f"{model}/{pool}"
    if model and pool and "/" not in pool:
        for role in Role:
            yield str(PoolKey(model, pool, role))
