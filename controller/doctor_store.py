"""What does the metrics store have for each signal, and what does it lack, at what cost?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from controller.doctor_findings import Findings, PoolFinding, Problem, SignalFinding, shown

if TYPE_CHECKING:
    from controller.adapters.fleet_answers import Target
    from controller.adapters.metric_names import Source
    from controller.adapters.prometheus import PrometheusSource
    from controller.adapters.prometheus_http import PrometheusHttp
    from controller.explain import Section
    from controller.ports import FleetMetrics
    from controller.settings import Settings
    from policies.fleet import PoolState

Pools: TypeAlias = "Callable[[], Sequence[PoolState] | None]"

_COUNTED = {"replica": "replicas", "gateway": "series", "gpu": "GPUs"}
_NAMED = 5
_LOOKS, _BETWEEN_LOOKS_S = 4, 4.0


def examine_store(settings: Settings, pools: Pools, findings: Findings) -> None:
    """Add to ``findings`` what there is in the metrics store; never raises for what is wrong with it.

    Args:
        settings: They name the store, and what is expected there.
        pools: Returns what the platform knows, None where there is none; asked when the metrics are there.
        findings: What is known so far.
    """
    from stamina.instrumentation import set_on_retry_hooks

    from controller.adapters.prometheus import PrometheusSource
    from controller.adapters.prometheus_http import PrometheusHttp
    from controller.adapters.system_clock import SystemClock
    from controller.errors import ObservationError
    from policies.fleet import PoolKey

    set_on_retry_hooks(())  # a second try is no news to the person who asked
    clock, asked = SystemClock(), settings.prometheus
    try:
        client = PrometheusHttp(asked, clock.elapsed)
    except ObservationError as error:
        findings.problems.append(Problem(f"{error.where}: {error.what}", error.remedy))
        return
    source = PrometheusSource(client, asked, settings.policy, clock.elapsed, settings.daemon.shard)
    try:
        _examine_server(client, clock.now, findings)
        metrics = _looked_at(source, clock.now, {PoolKey.parse(name).model for name in settings.policy.pools})
        _examine_signals(source.sources, findings)
        _examine_gpus(source, metrics, findings)
        _examine_pools(settings, source.targets, metrics, findings)
        _examine_load(settings, metrics, findings)
        known = pools()
        if known is not None:
            _examine_strangers(known, metrics, findings)
    except ObservationError as error:
        findings.problems.append(Problem(error.what, error.remedy))
    finally:
        source.close()


def _examine_server(client: PrometheusHttp, now: Callable[[], float], findings: Findings) -> None:
    before = now()
    server_at = client.now()
    findings.clock_ahead_s = round(server_at - (before + now()) / 2, 3)
    findings.server = client.flavour()


def _looked_at(source: PrometheusSource, now: Callable[[], float], expected: set[str]) -> FleetMetrics:
    """Return what the loop would see; a load that is not known yet is waited for as long as a scrape or so takes."""
    metrics = source.read(now())
    for _ in range(_LOOKS):
        if expected <= set(metrics.demand):
            break
        threading.Event().wait(_BETWEEN_LOOKS_S)
        metrics = source.read(now())
    return metrics


def _examine_signals(sources: Sequence[Source], findings: Findings) -> None:
    from controller.signals.catalogue import catalogue, signals

    for source in sources:
        what = _COUNTED[source.names.scope]
        findings.sources.append(f"{source.names.title}: {source.series} {what}")
        for signal in source.names.signals:
            metrics = tuple(candidate.shown for candidate in source.matched.get(signal, ()))
            cost = "" if metrics else signals()[signal].without
            findings.signals.append(SignalFinding(source.name, signal, metrics, cost))
    told = {signal for source in sources for signal in source.matched}
    offered = {signal for source in sources for signal in source.names.signals}
    findings.signals += [SignalFinding("", signal, (), signals()[signal].without) for signal in signals()
                         if signal not in told | offered]  # fmt: skip
    if not any(source.names.scope == "replica" for source in sources):
        known = ", ".join(names.title for names in catalogue().values() if names.scope == "replica")
        findings.problems.append(Problem("no engine reports", f"scrape the engines themselves; known: {known}"))


def _examine_gpus(source: PrometheusSource, metrics: FleetMetrics, findings: Findings) -> None:
    """Say of how many replicas the GPUs are known, where anybody exports them."""
    if not any(found.names.scope == "gpu" for found in source.sources):
        return
    known = sum(told.gpu_xid == told.gpu_xid for told in metrics.replicas.values())
    count = source.gpus.others
    others = f"; those of {count} other pod{'s' if count > 1 else ''} are ignored" if count else ""
    findings.sources.append(f"GPUs of {known} of {len(metrics.replicas)} replicas{others}")


def _examine_strangers(pools: Sequence[PoolState], metrics: FleetMetrics, findings: Findings) -> None:
    """Say which pods have metrics and are none of the platform's."""
    from controller.observation import pods_unknown_to

    unknown = pods_unknown_to(pools, metrics)
    if unknown:
        named = ", ".join(map(shown, unknown[:_NAMED])) + (", ..." if len(unknown) > _NAMED else "")
        count = f"{len(unknown)} pod{'s' if len(unknown) > 1 else ''}"
        what = f"metrics tell of {count} that the platform does not know, and which are ignored: {named}"
        remedy = "have they just gone? Otherwise let prometheus.match leave out what is not of this fleet"
        findings.problems.append(Problem(what, remedy, fatal=False))


def _examine_pools(settings: Settings, targets: Sequence[Target], metrics: FleetMetrics, findings: Findings) -> None:
    from policies.fleet import PoolKey

    configured = {(key.model, key.pool): pool for name, pool in settings.policy.pools.items()
                  for key in [PoolKey.parse(name)]}  # fmt: skip
    labels = settings.prometheus
    for place in sorted({*configured, *((target.model, target.pool) for target in targets)}):
        pool = configured.get(place)
        mine = [target for target in targets if (target.model, target.pool) == place]
        expected = f"{pool.min_replicas} to {pool.max_replicas}" if pool else "not in the settings"
        reporting = sum(target.replica in metrics.replicas for target in mine)
        up = sum(target.up for target in mine)
        model, name = map(shown, place)
        findings.pools.append(PoolFinding(model, name, expected, len(mine), up, reporting))
        if pool and pool.min_replicas and not mine:
            findings.problems.append(
                Problem(
                    f"pool {place[1]} of {place[0]} has no target",
                    f"its targets need the labels {labels.pool_label}={place[1]!r}, {labels.model_label}={place[0]!r} "
                    f"and {labels.replica_label}: relabel them where they are scraped, or name other labels",
                )
            )
        elif up > reporting:
            findings.problems.append(
                Problem(
                    f"{up - reporting} of {up} targets of pool {shown(place[1])} show no metrics of a known engine",
                    "is it their metrics port? SGLang wants --enable-metrics, for one",
                    fatal=False,
                )
            )


def _examine_load(settings: Settings, metrics: FleetMetrics, findings: Findings) -> None:
    from policies.fleet import PoolKey

    for model, demand in metrics.demand.items():
        findings.load[shown(model)] = {
            "requests_per_s": demand.requests_per_s,
            "prompt_tokens_per_s": demand.prompt_tokens_per_s,
            "output_tokens_per_s": demand.output_tokens_per_s,
        }
    for model in sorted({PoolKey.parse(name).model for name in settings.policy.pools}):
        if model not in metrics.demand:
            findings.problems.append(
                Problem(
                    f"the offered load of {model} is not observed",
                    "nothing is forecast and nothing shrinks; after two scrapes of its engines or gateway it should be",
                )
            )
    rest = [what for what in metrics.missing if not what.startswith(("demand:", "arrivals:"))]
    findings.problems += [Problem(shown(what), "see the metrics store", fatal=False) for what in rest[:20]]


def store_sections(findings: Findings) -> list[Section]:
    """Return what was found in the metrics store as tables."""
    from controller.explain import Section

    ahead = findings.clock_ahead_s
    clock = "" if ahead is None else f"; its clock is {abs(ahead):.2f} s {'ahead of' if ahead > 0 else 'behind'} ours"
    sections = [Section(f"Metrics store {findings.url}", note=(findings.server or "not reached") + clock)]
    if findings.sources:
        sections.append(Section("Sources", note="; ".join(findings.sources)))
        rows = [(f.source or "(nobody)", f.signal, ", ".join(f.metrics) or "MISSING", f.cost) for f in findings.signals]
        sections.append(Section("Signals", ("source", "signal", "metric", "what its absence costs"), tuple(rows)))
    if findings.pools:
        pools = tuple(
            (f.model, f.pool, f.expected, str(f.targets), str(f.up), str(f.reporting)) for f in findings.pools
        )
        sections.append(Section("Pools", ("model", "pool", "replicas expected", "targets", "up", "reporting"), pools))
    if findings.load:
        load = tuple((model, *(f"{rate:,.1f}" for rate in rates.values())) for model, rates in findings.load.items())
        sections.append(
            Section("Offered load now, per second", ("model", "requests", "prompt tokens", "output tokens"), load)
        )
    return sections
