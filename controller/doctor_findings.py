"""What can ``foresail doctor`` find? The values that it prints, as tables or as JSON."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

from policies.fleet import PoolKey


@dataclass(frozen=True, slots=True)
class Problem:
    """Something without which decisions suffer. Only what is ``fatal`` makes the command fail."""

    what: str
    remedy: str
    fatal: bool = True


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
class RightFinding:
    """A right that is missing, what that costs, and the rule that gives it; only a ``needed`` one is fatal."""

    feature: str
    verb: str
    resource: str
    namespace: str
    name: str
    cost: str
    rule: str
    needed: bool = True


@dataclass(frozen=True, slots=True)
class WorkloadFinding:
    """A workload that is a pool: its replicas, and who and what else has a say about them."""

    workload: str
    pool: str
    desired: int
    ready: int
    owner: str
    budgets: tuple[str, ...]
    without_label: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoteFinding:
    """What is to be said of a workload."""

    workload: str
    what: str


@dataclass(frozen=True, slots=True)
class RouteFinding:
    """A route and what is wrong with it; empty where nothing is."""

    route: str
    model: str
    trouble: str


@dataclass(slots=True)
class ClusterFindings:
    """What was found in a cluster, as far as it went. ``rights_asked`` were asked for, and those missing are listed."""

    server: str
    version: str = ""
    clock_ahead_s: float | None = None
    user: str = ""
    features: list[str] = field(default_factory=list)
    rights_asked: int = 0
    missing_rights: list[RightFinding] = field(default_factory=list)
    missing_kinds: list[str] = field(default_factory=list)
    workloads: list[WorkloadFinding] = field(default_factory=list)
    no_pools: list[NoteFinding] = field(default_factory=list)
    notes: list[NoteFinding] = field(default_factory=list)
    routes: list[RouteFinding] = field(default_factory=list)
    lease: str = ""


@dataclass(slots=True)
class Findings:
    """What was found, as far as it went; ``cluster`` is None where the settings name none, or several (``members``).

    ``shard`` says which part of the fleet was looked at; None where that is all of it.
    """

    url: str
    server: str = ""
    clock_ahead_s: float | None = None
    sources: list[str] = field(default_factory=list)
    signals: list[SignalFinding] = field(default_factory=list)
    pools: list[PoolFinding] = field(default_factory=list)
    load: dict[str, dict[str, float]] = field(default_factory=dict)
    cluster: ClusterFindings | None = None
    members: dict[str, ClusterFindings] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    shard: dict[str, Any] | None = None

    @property
    def healthy(self) -> bool:
        """Whether decisions can be made."""
        return not any(problem.fatal for problem in self.problems)


def compare_pools(managed: Set[PoolKey], there: Set[PoolKey], prefix: str) -> list[Problem]:
    """Return what is to be said of pools that there should be and are not, and the other way round."""
    remedy = f"label its workload {prefix}/model, or name it under platform.pools"
    absent = [Problem(shown(f"no workload in the cluster is pool {key}"), remedy) for key in sorted(managed - there)]
    remedy = "add it to policy.pools to have it managed"
    return absent + [
        Problem(shown(f"pool {key} is not in the settings"), remedy, fatal=False) for key in sorted(there - managed)
    ]


def shown(text: str) -> str:
    """Return what others named, without what could move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
