"""What do exporters of GPU figures say of the replicas that hold the GPUs: Xid errors, power and clock?

An exporter sees every GPU of its node, whoever holds it: what is no replica of ours is left out, and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from controller.adapters.fleet_answers import Answers, Notes, impossible
from controller.adapters.fleet_queries import GPU_SIGNALS, RARE, SAMPLED_AT
from controller.adapters.metric_names import Source
from controller.adapters.prometheus_http import Row
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.adapters.series_rows import labels_of, values_of
from controller.signals.catalogue import signals
from forecasting.series import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class GpuFigures:
    """Figures of GPUs by replica.

    Attributes:
        columns: ``float64[N]`` per signal, in the order of the replicas that were asked for; NaN where nobody tells.
        others: How many pods with a GPU are none of those replicas.
        node_xids: The largest Xid of late of each node, whoever holds its GPUs or nobody; 0 for none.
    """

    columns: Mapping[str, FloatArray] = field(default_factory=dict)
    others: int = 0
    node_xids: Mapping[str, float] = field(default_factory=dict)


def of_gpus(
    answers: Answers, sources: Sequence[Source], replicas: Sequence[str], settings: PrometheusSettings, notes: Notes
) -> GpuFigures:
    """Return what is known of the GPUs of ``replicas``; what is older than ``stale_after_s`` is missing.

    Where several series are about one replica, the largest Xid counts and the least of each ratio.
    """
    columns = {signal: np.full(len(replicas), np.nan) for signal in GPU_SIGNALS}
    others: set[str] = set()
    node_xids: dict[str, float] = {}
    for source in sources:
        sampled = answers.of(source, SAMPLED_AT) or ()
        sampled_at = _by_replica(source, SAMPLED_AT, sampled)
        skew_s = settings.max_clock_skew_s
        fresh = {name for name, at in sampled_at.items() if -skew_s <= answers.at - at <= settings.stale_after_s}
        if old := len(sampled_at) - len(fresh):
            notes.told.append(f"gpu:{source.name} ({old} of {len(sampled_at)} pods last sampled too long ago)")
        known = np.array([name in fresh for name in replicas], dtype=bool)
        for signal in GPU_SIGNALS:
            rows = answers.of(source, signal)
            if rows is None:
                continue
            told = _by_replica(source, signal, rows)
            values = np.array([told.get(name, np.nan) for name in replicas])
            values = notes.refuse(signal, replicas, values, impossible(signal, values))
            if signal in RARE:  # an Xid of a replica that is looked at is 0 until there is one
                values = np.nan_to_num(values)
            columns[signal] = np.where(known & np.isnan(columns[signal]), values, columns[signal])
        others |= fresh.difference(replicas)
        scraped = _largest(source.names.node_labels, sampled)
        told = _largest(source.names.node_labels, answers.of(source, "gpu_xid") or ())
        for name, at in scraped.items():
            xid = told.get(name, 0.0)
            if -skew_s <= answers.at - at <= settings.stale_after_s and not impossible("gpu_xid", np.array([xid]))[0]:
                node_xids[name] = max(xid, node_xids.get(name, 0.0))
    return GpuFigures(columns, len(others), node_xids)


def _by_replica(source: Source, signal: str, rows: Sequence[Row]) -> dict[str, float]:
    """Return one figure per replica."""
    least = signal in GPU_SIGNALS and signals()[signal].across == "min"
    told: dict[str, float] = {}
    for name, value in zip(_names(source, rows), values_of(rows).tolist(), strict=True):
        before = told.get(name, value)
        told[name] = min(before, value) if least else max(before, value)
    told.pop("", None)
    return told


def _largest(labels: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """Return the largest figure by the first of ``labels`` that each row has."""
    told: dict[str, float] = {}
    for name, value in zip(_first_of(labels, rows), values_of(rows).tolist(), strict=True):
        if name:
            told[name] = max(value, told.get(name, value))
    return told


def _names(source: Source, rows: Sequence[Row]) -> Iterable[str]:
    """Return the replica that each row is about; empty where no pod holds the GPU."""
    return _first_of(source.names.replica_labels, rows)


def _first_of(names: Sequence[str], rows: Sequence[Row]) -> Iterable[str]:
    labels = [labels_of(rows, label) for label in names]
    return [next(filter(None, values), "") for values in zip(*labels, strict=True)]
