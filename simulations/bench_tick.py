"""How fast is Foresail on this machine? ``foresail bench tick``: ticks of a large fleet, in memory or on an API."""

from __future__ import annotations

import json
from typing import Any

import click

from controller.adapters.system_clock import SystemClock
from controller.bench import PHASES, measure_ticks
from controller.errors import BadInput
from controller.logs import start_logging
from controller.shard_settings import MOST_SHARDS, ShardSettings
from simulations.bench_cluster import measure_cluster

_REPEAT_S = 60.0


@click.command("tick")
@click.option("--workloads", type=click.IntRange(1, 10_000), default=1_000, show_default=True, metavar="N",
              help="Models, with a pool each.")  # fmt: skip
@click.option("--replicas", type=click.IntRange(1, 100_000), default=10_000, show_default=True, metavar="N",
              help="Replicas of all of them.")  # fmt: skip
@click.option("--ticks", type=click.IntRange(2, 10_000), default=20, show_default=True, metavar="N",
              help="Ticks measured.")  # fmt: skip
@click.option("--history-s", type=click.FloatRange(0.0), default=86_400.0, show_default=True, metavar="S",
              help="Load history that every workload has.")  # fmt: skip
@click.option("--cluster", is_flag=True, help="Watch the fleet on a Kubernetes API server, and measure that too.")
@click.option("--shards", type=click.IntRange(1, MOST_SHARDS), default=1, show_default=True, metavar="N",
              help="With --cluster: measure the first of so many shards of the fleet.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def tick(workloads: int, replicas: int, ticks: int, history_s: float, cluster: bool, shards: int, as_json: bool) -> int:
    """Time whole ticks, from Prometheus' answer to the decision, of a fleet of vLLM engines.

    A real Prometheus scrapes a web server that speaks for all replicas; the control loop reads it as the daemon does.
    The platform and the gateway are values in memory, nothing is recorded and nothing is written. With --cluster the
    platform is the real one for Kubernetes, on an API server of Foresail's own in another process, whose pods change
    all the time.
    """
    if replicas < workloads:
        raise BadInput(f"{replicas} replicas are fewer than {workloads} workloads", "--replicas", "give each one")
    if shards > 1 and not cluster:
        raise BadInput("only a fleet on Kubernetes is divided", "--shards", "add --cluster")
    start_logging(SystemClock().elapsed, _REPEAT_S, "warning")
    tell = (lambda _: None) if as_json else _tell
    if cluster:
        figures = measure_cluster(workloads, replicas, ticks, history_s, tell, shard=ShardSettings(of=shards))
    else:
        figures = measure_ticks(workloads, replicas, ticks, history_s, tell)
    if as_json:
        click.echo(json.dumps(figures, indent=2, allow_nan=False))
        return 0
    show(figures)
    return 0


def show(figures: dict[str, Any]) -> None:
    """Print figures for people."""
    click.echo(f"{figures['workloads']:,} workloads, {figures['replicas']:,} replicas, {figures['ticks']} ticks")
    if figures.get("shards", 1) > 1:
        of_shard = figures["of_shard"]
        told = f"{of_shard['workloads']:,} workloads, {of_shard['replicas']:,} replicas"
        click.echo(f"of which the first of {figures['shards']} shards has {told}")
    if "cache_mb" in figures:
        _show_cluster(figures)
    click.echo(
        f"tick  p50 {figures['tick_p50_s']:.3f} s, p99 {figures['tick_p99_s']:.3f} s, {figures['rss_mb']:.0f} MB; "
        f"one core works {figures['core']['tick_p50_s']:.3f} s for it"
    )
    for name, phase in figures["phases"].items():
        click.echo(f"  {name:9} p50 {phase['p50_s']:.3f} s, p99 {phase['p99_s']:.3f} s   {PHASES[name]}")


def _show_cluster(figures: dict[str, Any]) -> None:
    before, after, core = figures["rss_before_list_mb"], figures["rss_after_list_mb"], figures["core"]
    click.echo(
        f"list  {figures['list_s']:.2f} s until everything is there; one core works {core['list_s']:.2f} s for it"
    )
    click.echo(f"cache {figures['cache_mb']:.1f} MB of objects; the process grew from {before:.0f} to {after:.0f} MB")
    per_core = f"{core['events_per_s']:,} in a second of one core"
    click.echo(f"watch {figures['events_per_s']:,} changes of pods a second are taken, {per_core}")
    click.echo("pools()")
    for name, what in _LOOKS.items():
        click.echo(f"  {figures[name] * 1e3:8.2f} ms, of one core {core[name] * 1e3:8.2f} ms   after {what}")
    click.echo(f"{figures['changes_per_s']:g} changes of pods a second during the ticks")


_LOOKS = {
    "pools_first_s": "the first list",
    "pools_unchanged_s": "no change",
    "pools_changed_s": "a change of one pod in each of 100 workloads",
    "pools_all_changed_s": "a change of one pod in every workload",
}


def _tell(what: str) -> None:
    click.echo(what, err=True)
