"""Is everything there that decisions need? ``foresail doctor``: what the metrics store has and lacks, at what cost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from controller.adapters.fleet_answers import Target
    from controller.adapters.metric_names import Source
    from controller.adapters.prometheus import PrometheusSource
    from controller.adapters.prometheus_http import PrometheusHttp
    from controller.explain import Section
    from controller.ports import FleetMetrics
    from controller.settings import Settings

FAILED = 1
_COUNTED = {"replica": "replicas", "gateway": "series", "gpu": "GPUs"}
_NAMED = 5
_LOOKS, _BETWEEN_LOOKS_S = 4, 4.0


@dataclass(frozen=True, slots=True)
class SignalFinding:
    """One signal of one engine or gateway: under which names it is there, best first; none is a ``cost``."""

    source: str
    signal: str
    metrics: tuple[str, ...]
    cost: str = ""


@dataclass(frozen=True, slots=True)
class PoolFinding:
    """Targets of one pool against what the settings expect; ``reporting`` are those with engine metrics."""

    model: str
    pool: str
    expected: str
    targets: int
    up: int
    reporting: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something without which decisions suffer. Only what is ``fatal`` makes the command fail."""

    what: str
    remedy: str
    fatal: bool = True


@dataclass(slots=True)
class Findings:
    """What was found, as far as it went."""

    url: str
    server: str = ""
    clock_ahead_s: float | None = None
    sources: list[str] = field(default_factory=list)
    signals: list[SignalFinding] = field(default_factory=list)
    pools: list[PoolFinding] = field(default_factory=list)
    load: dict[str, dict[str, float]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether decisions can be made."""
        return not any(problem.fatal for problem in self.problems)


@click.command()
@click.option("-c", "--config", "file", type=click.Path(path_type=Path), help="Settings file.  [default: all defaults]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Lay a setting over the file; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def doctor(file: Path | None, overrides: Sequence[str], as_json: bool) -> int:
    """Say what the metrics store has for each signal, what is missing, and what that costs."""
    from controller.settings import load_settings

    findings = examine(load_settings(file, overrides))
    if as_json:
        click.echo(json.dumps({"ok": findings.healthy, **asdict(findings)}, indent=2, allow_nan=False))
    else:
        from controller.explain import as_text

        click.echo("\n\n".join(as_text(section) for section in _sections(findings)))
    return 0 if findings.healthy else FAILED


def examine(settings: Settings) -> Findings:
    """Return what there is in the metrics store that ``settings`` name; never raises for what is wrong with it."""
    from stamina.instrumentation import set_on_retry_hooks

    from controller.adapters.prometheus import PrometheusSource
    from controller.adapters.prometheus_http import PrometheusHttp
    from controller.adapters.system_clock import SystemClock
    from controller.errors import ObservationError
    from policies.fleet import PoolKey

    set_on_retry_hooks(())  # a second try is no news to the person who asked
    clock, asked = SystemClock(), settings.prometheus
    findings = Findings(asked.url)
    try:
        client = PrometheusHttp(asked, clock.elapsed)
    except ObservationError as error:
        findings.problems.append(Problem(f"{error.where}: {error.what}", error.remedy))
        return findings
    source = PrometheusSource(client, asked, settings.policy, clock.elapsed)
    try:
        _examine_server(client, clock.now, findings)
        metrics = _looked_at(source, clock.now, {PoolKey.parse(name).model for name in settings.policy.pools})
        _examine_signals(source.sources, findings)
        _examine_gpus(source, metrics, findings)
        _examine_pools(settings, source.targets, metrics, findings)
        _examine_load(settings, metrics, findings)
        _examine_strangers(settings, metrics, findings)
    except ObservationError as error:
        findings.problems.append(Problem(error.what, error.remedy))
    finally:
        source.close()
    return findings


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


def _examine_strangers(settings: Settings, metrics: FleetMetrics, findings: Findings) -> None:
    """Say which pods have metrics and are none of the platform's, where the settings name a platform."""
    from controller.bootstrap import open_platform
    from controller.errors import ObservationError
    from controller.observation import pods_unknown_to

    if settings.platform is None:
        return
    platform = open_platform(settings.platform)
    try:
        unknown = pods_unknown_to(platform.cluster.pools(), metrics)
    except ObservationError as error:
        findings.problems.append(Problem(f"{_shown(error.where)}: {_shown(error.what)}", error.remedy, fatal=False))
        return
    finally:
        platform.close()
    if unknown:
        named = ", ".join(map(_shown, unknown[:_NAMED])) + (", ..." if len(unknown) > _NAMED else "")
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
        model, name = map(_shown, place)
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
                    f"{up - reporting} of {up} targets of pool {_shown(place[1])} show no metrics of a known engine",
                    "is it their metrics port? SGLang wants --enable-metrics, for one",
                    fatal=False,
                )
            )


def _examine_load(settings: Settings, metrics: FleetMetrics, findings: Findings) -> None:
    from policies.fleet import PoolKey

    for model, demand in metrics.demand.items():
        findings.load[_shown(model)] = {
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
    findings.problems += [Problem(_shown(what), "see the metrics store", fatal=False) for what in rest[:20]]


def _sections(findings: Findings) -> list[Section]:
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
    problems = tuple(("problem" if p.fatal else "note", p.what, p.remedy) for p in findings.problems)
    sections.append(Section("Problems", ("", "what", "remedy"), problems, "" if problems else "none"))
    return sections


def _shown(text: str) -> str:
    """Return what others named, without what could move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
