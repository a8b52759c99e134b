"""What was found in a cluster, as tables to read."""

from __future__ import annotations

from collections.abc import Iterable

from controller.doctor_findings import ClusterFindings, Findings, RightFinding, WorkloadFinding
from controller.explain import Section

_MOST_ROWS = 50
_OF_POOLS = ("workload", "pool", "desired", "ready", "owner of its size", "disruption budget", "cannot be cordoned")


def cluster_sections(found: ClusterFindings) -> list[Section]:
    """Return what was found as tables; what there is nothing to say of is left out."""
    sections = [Section(f"Cluster {found.server}", note=_server(found))]
    if found.missing_rights:
        sections += [_rights(found), *_rules(found.missing_rights)]
    elif found.rights_asked:
        sections.append(Section("Rights", note=f"all {found.rights_asked} that the settings need are there"))
    if found.missing_kinds:
        sections.append(Section("Kinds that the cluster has not got", note=", ".join(found.missing_kinds)))
    pools = [_workload(workload) for workload in found.workloads]
    no_pools = [(note.workload, note.what) for note in found.no_pools]
    notes = [(note.workload, note.what) for note in found.notes]
    routes = [(route.route, route.model, route.trouble or "ok") for route in found.routes]
    for table in (
        _table("Workloads that are pools", _OF_POOLS, pools),
        _table("Workloads that are no pools", ("workload", "why"), no_pools),
        _table("What else there is to say of workloads", ("workload", "what"), notes),
        _table("Routes", ("route", "model", "state"), routes),
    ):
        if table.rows:
            sections.append(table)
    if found.lease:
        sections.append(Section("Lease", note=found.lease))
    return sections


def shard_sections(findings: Findings) -> list[Section]:
    """Return which part of the fleet was looked at; nothing where that is all of it."""
    told = findings.shard
    if told is None:
        return []
    note = f"of {told['of']}, in the division {told['layout']}; the workloads of others are not looked at"
    return [Section(f"Shard {told['index']}", note=note)]


def _workload(found: WorkloadFinding) -> tuple[str, ...]:
    budgets, owner = ", ".join(found.budgets) or "none", found.owner or "nobody else"
    counts = str(found.desired), str(found.ready)
    return (found.workload, found.pool, *counts, owner, budgets, str(len(found.without_label)))


def _server(found: ClusterFindings) -> str:
    if not found.version:
        return "not reached"
    ahead = found.clock_ahead_s
    clock = "" if ahead is None else f"; its clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} ours"
    features = ", ".join(found.features) or "nothing but looking"
    known = f"it knows us as {found.user}" if found.user else "it does not tell as whom it knows us"
    return f"Kubernetes {found.version}{clock}; {known}; on: {features}"


def _rights(found: ClusterFindings) -> Section:
    rows = [
        (right.feature, right.verb, _named(right), right.namespace or "(cluster)",
         right.cost if right.needed else f"{right.cost} (can do without)")
        for right in found.missing_rights
    ]  # fmt: skip
    title = f"Rights that are missing: {len(rows)} of {found.rights_asked}"
    return Section(title, ("feature", "verb", "resource", "namespace", "what its absence costs"), tuple(rows))


def _named(right: RightFinding) -> str:
    return f"{right.resource} {right.name}" if right.name else right.resource


def _rules(missing: list[RightFinding]) -> list[Section]:
    """Return per role the rules that give what is missing, to be pasted under its ``rules``."""
    roles: dict[str, dict[str, list[str]]] = {}
    for right in missing:
        without_verb = right.rule.replace(f"verbs: [{right.verb}]", "verbs: [?]")
        roles.setdefault(right.namespace, {}).setdefault(without_verb, []).append(right.verb)
    return [
        Section(
            f"To be added to the Role in {namespace}" if namespace else "To be added to the ClusterRole",
            ("rules:",),
            tuple((f"  {rule.replace('?', ', '.join(verbs))}",) for rule, verbs in rules.items()),
        )
        for namespace, rules in roles.items()
    ]


def _table(title: str, columns: tuple[str, ...], told: Iterable[tuple[str, ...]]) -> Section:
    rows = list(told)
    more = f"and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
    return Section(title, columns, tuple(rows[:_MOST_ROWS]), more)
