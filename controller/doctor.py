"""Is all there that decisions need? ``foresail doctor``: what the cluster and the metrics store have and lack."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from controller.adapters.live_platform import PlatformSettings
    from controller.doctor_findings import Findings
    from controller.explain import Section
    from controller.settings import Settings
    from policies.fleet import PoolState

FAILED = 1


@click.command()
@click.option("-c", "--config", "file", type=click.Path(path_type=Path), help="Settings file.  [default: all defaults]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Lay a setting over the file; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def doctor(file: Path | None, overrides: Sequence[str], as_json: bool) -> int:
    """Say what the cluster and the metrics store have, what is missing, and what that costs. Changes nothing."""
    from controller.settings import load_settings
    from controller.shards import own_part

    findings = examine(own_part(load_settings(file, overrides)))
    if as_json:
        click.echo(json.dumps({"ok": findings.healthy, **asdict(findings)}, indent=2, allow_nan=False))
    else:
        from controller.explain import as_text

        click.echo("\n\n".join(as_text(section) for section in sections_of(findings)))
    return 0 if findings.healthy else FAILED


def examine(settings: Settings) -> Findings:
    """Return what there is in the cluster and metrics store of ``settings``; never raises for what is wrong there."""
    from controller.adapters.kube.member_settings import ClustersSettings
    from controller.adapters.kube.settings import KubernetesSettings
    from controller.adapters.system_clock import SystemClock
    from controller.doctor_cluster import examine_cluster
    from controller.doctor_findings import Findings
    from controller.doctor_store import examine_store

    findings, platform = Findings(settings.prometheus.url), settings.platform
    if not settings.daemon.shard.whole:
        findings.shard = settings.daemon.shard.told()
    if isinstance(platform, KubernetesSettings):
        examined = examine_cluster(
            platform, settings.modes, settings.policy, SystemClock(), shard=settings.daemon.shard
        )
        findings.cluster = examined.cluster
        findings.problems += examined.problems
        examine_store(settings, lambda: examined.pools, findings)
    elif isinstance(platform, ClustersSettings):
        from controller.doctor_members import examine_members

        pools = examine_members(platform, settings, findings)
        examine_store(settings, lambda: pools, findings)
    else:
        examine_store(settings, lambda: _pools(platform, findings), findings)
    return findings


def sections_of(findings: Findings) -> list[Section]:
    """Return what was found as tables, the problems last."""
    from controller.doctor_store import store_sections
    from controller.doctor_tables import cluster_sections, shard_sections
    from controller.explain import Section

    sections = shard_sections(findings)
    sections += cluster_sections(findings.cluster) if findings.cluster else []
    for name, member in findings.members.items():
        sections += [replace(section, title=f"{name}: {section.title}") for section in cluster_sections(member)]
    sections += store_sections(findings)
    problems = tuple(("problem" if p.fatal else "note", p.what, p.remedy) for p in findings.problems)
    return [*sections, Section("Problems", ("", "what", "remedy"), problems, "" if problems else "none")]


def _pools(named: PlatformSettings | None, findings: Findings) -> Sequence[PoolState] | None:
    """Return the pools of a platform that is no cluster; None where none is named, or it does not tell."""
    from controller.adapters.live_platform import LivePlatform
    from controller.doctor_findings import Problem, shown
    from controller.errors import ObservationError

    if named is None:
        return None
    platform = LivePlatform(named)
    try:
        return platform.pools()
    except ObservationError as error:
        findings.problems.append(Problem(f"{shown(error.where)}: {shown(error.what)}", error.remedy, fatal=False))
        return None
    finally:
        platform.close()
