"""What do gateways say: arrivals per model, what they hold, and what each replica has been sent and has answered?"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from controller.adapters import fleet_answers
from controller.adapters.fleet_answers import Answers, GatewayTable, Notes, Target
from controller.adapters.fleet_queries import GATEWAYS, Asked
from controller.adapters.metric_names import Source
from controller.adapters.model_figures import Subjects
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.adapters.series_rows import labels_of
from controller.offered_load import ArrivalRates, Arrivals, Counted

_APART = "\x00"


@dataclass(slots=True)
class GatewayFigures:
    """What gateways say at one look; ``queued`` is by model, what follows it by replica.

    Attributes:
        sampled_at: When each process was that counts something of replicas.
    """

    arrivals: Arrivals = field(default_factory=Arrivals)
    queued: dict[str, float] = field(default_factory=dict)
    in_flight: dict[str, float] = field(default_factory=dict)
    answered: dict[str, float] = field(default_factory=dict)
    failed_answers: dict[str, float] = field(default_factory=dict)
    unreached: dict[str, float] = field(default_factory=dict)
    sampled_at: list[float] = field(default_factory=list)


class GatewayView:
    """All gateways of a fleet. Figures of a process whose samples are too old are missing, rather than old.

    Attributes:
        addresses: Gateway processes that were there at the last look.
    """

    def __init__(self, settings: PrometheusSettings) -> None:
        self._settings = settings
        self._rates: dict[str, ArrivalRates] = {}
        self.addresses: frozenset[str] = frozenset()

    @property
    def silent(self) -> list[str]:
        """Gateway processes that were heard of lately and are not now, though they are still scraped."""
        return sorted({key.partition(_APART)[0] for rates in self._rates.values() for key in rates.silent})

    def look(
        self, answers: Answers, sources: Sequence[Source], subjects: Subjects, targets: Sequence[Target], notes: Notes
    ) -> GatewayFigures:
        """Return what they say; where two kinds of gateway count one model, the one that is first by name is taken."""
        seen = GatewayFigures()
        rows = answers.rows.get(Asked("", GATEWAYS))
        scraped = None if rows is None else set(labels_of(rows, self._settings.target_label))
        replica_at = _replicas_by_address(targets)
        addresses: set[str] = set()
        for source in sources:
            sampled_at = fleet_answers.gateway_sampled_at(answers, source, self._settings, notes)
            addresses |= set(sampled_at)
            old = {name for name, at in sampled_at.items() if answers.at - at > self._settings.stale_after_s}
            notes.told += [f"gateway:{name} (last sampled {answers.at - sampled_at[name]:.0f} s ago)" for name in old]
            table = fleet_answers.by_subject(answers, source, self._settings, notes)
            arrivals = self._arrivals(answers.at, source, table, sampled_at, subjects, scraped)
            seen.arrivals = _either(seen.arrivals, arrivals)
            fresh = set(sampled_at) - old

            def model_of(subject: str, source: Source = source) -> str:
                return subjects.model_of(source, (subject,))

            held = _summed(table, "held_requests", fresh, model_of)
            seen.queued = {**held, **seen.queued}
            ends = fleet_answers.by_endpoint(answers, source, self._settings, notes)
            replica_of = _replica_names(source, replica_at)
            seen.sampled_at += [sampled_at[name] for name in fresh.intersection(address for address, _ in ends.keys)]
            in_flight = _summed(ends, "in_flight_requests", fresh, replica_of)
            answered = _summed(ends, "answered_requests_total", fresh, replica_of)
            seen.in_flight = {**in_flight, **seen.in_flight}
            seen.answered = {**answered, **seen.answered}
            # A gateway that counts these shows, or is asked for, no series before the first.
            if answers.of(source, "failed_answers_total") is not None:
                failed = _summed(ends, "failed_answers_total", fresh, replica_of)
                seen.failed_answers = {**dict.fromkeys(answered, 0.0), **failed, **seen.failed_answers}
            if answers.of(source, "unreached_requests_total") is not None:
                unreached = _summed(ends, "unreached_requests_total", fresh, replica_of)
                seen.unreached = {**dict.fromkeys((*in_flight, *answered), 0.0), **unreached, **seen.unreached}
        self.addresses = frozenset(addresses | ({*self.silent} & (scraped or set())))
        return seen

    def _arrivals(
        self,
        at: float,
        source: Source,
        table: GatewayTable,
        sampled_at: Mapping[str, float],
        subjects: Subjects,
        scraped: Collection[str] | None,
    ) -> Arrivals:
        models = [subjects.model_of(source, (subject,)) for _, subject in table.keys]
        kept = np.array([place for place, model in enumerate(models) if model], dtype=np.intp)
        none = np.full(len(kept), np.nan)
        counted = Counted(
            keys=[_APART.join(table.keys[place]) for place in kept],
            models=[models[place] for place in kept],
            sampled_at=np.array([sampled_at.get(table.keys[place][0], -math.inf) for place in kept]),
            received=table.columns["received_requests_total"][kept],
            retried=table.columns["retried_requests_total"][kept],
            ended=none,
            inside=none,
        )
        if source.name not in self._rates:
            self._rates[source.name] = ArrivalRates(self._settings.stale_after_s, self._settings.min_coverage_ratio)

        def still_there(key: str) -> bool:
            return scraped is None or key.partition(_APART)[0] in scraped

        return self._rates[source.name].update(counted, at, still_there)


def _either(one: Arrivals, other: Arrivals) -> Arrivals:
    known = {**other.requests_per_s, **one.requests_per_s}
    return Arrivals(known, {m: why for m, why in {**other.unknown, **one.unknown}.items() if m not in known})


def _summed(
    table: GatewayTable, signal: str, fresh: Collection[str], name_of: Callable[[str], str]
) -> dict[str, float]:
    """Return the sums over processes of what is fresh, by the name of what it is about."""
    sums: dict[str, float] = {}
    for (address, about), value in zip(table.keys, table.columns[signal].tolist(), strict=True):
        if address in fresh and not math.isnan(value) and (name := name_of(about)):
            sums[name] = sums.get(name, 0.0) + value
    return sums


def _replicas_by_address(targets: Sequence[Target]) -> dict[str, str]:
    """Return replicas by ``host:port`` and, where a host has only one, by host alone."""
    by_host: dict[str, set[str]] = {}
    found = {}
    for target in targets:
        found[target.address] = target.replica
        by_host.setdefault(target.address.rpartition(":")[0], set()).add(target.replica)
    alone = {host: next(iter(names)) for host, names in by_host.items() if host and len(names) == 1}
    return {**alone, **found}


def _replica_names(source: Source, replica_at: Mapping[str, str]) -> Callable[[str], str]:
    """Return what gives the replica of an endpoint's label."""
    if source.names.endpoint is None or source.names.endpoint.names == "replica":
        return str
    return lambda address: replica_at.get(address) or replica_at.get(address.rpartition(":")[0], "")
