"""How is a fleet healed by those who do not look further: by the kubelet alone, or by one rule about token rates?

Both are given Foresail's own scaling, with every playbook taken away and requests shared evenly over READY replicas
as a Kubernetes Service does, so that what differs is healing and nothing else. The platform does for all what it
does by itself: an engine that exited is started again in place, and a lost node's replicas elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from forecasting.forecast import LoadForecast
from policies.causes import CAUSES
from policies.decide import Foresail, PolicySettings
from policies.decisions import Decision, Policy, Remediation, RestartReplica
from policies.fleet import FleetState, Phase, ReplicaState
from policies.memory import PolicyMemory
from simulations.peers.answer import even_traffic

RIVALS = ("kubelet", "naive")
"""``kubelet``: liveness alone. ``naive``: running > 0 and no token for two scrapes in a row means restart."""

FORESAIL = "foresail"


def policy_for(name: str, settings: PolicySettings) -> Policy:
    """Return who is called ``name``, with the settings of a world.

    Raises:
        KeyError: If nobody is.
    """
    return _MADE[name](settings)


def without_healing(settings: PolicySettings) -> PolicySettings:
    """Return the settings with no playbook for any cause."""
    healing = settings.healing.model_copy(update={"treatments": dict.fromkeys(CAUSES, "")})
    return settings.model_copy(update={"healing": healing})


@dataclass(slots=True)
class Kubelet:
    """Liveness alone: ``/health`` answers 200 as long as the process lives.

    So it has nothing to decide: a hang, errors and slowness pass the probe, and the platform restarts who exits.
    """

    settings: PolicySettings
    name: str = "kubelet"
    _scaling: Foresail = field(init=False)

    def __post_init__(self) -> None:
        self._scaling = Foresail(without_healing(self.settings))

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return how many replicas there are to be, and restart none."""
        return _healed(self._scaling.decide(fleet, forecasts, memory), fleet, ())


@dataclass(slots=True)
class Naive:
    """Restart what has requests running and made no output token over the last ``scrapes`` intervals between scrapes.

    It looks at READY replicas alone, and a sample counts once. It has no budget, no floor and no second witness.
    """

    settings: PolicySettings
    scrapes: int = 2
    name: str = "naive"
    _scaling: Foresail = field(init=False)
    _seen: dict[str, _Still] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._scaling = Foresail(without_healing(self.settings))

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return how many replicas there are to be, and restart those that stand still."""
        restarts = tuple(self._still(fleet))
        return _healed(self._scaling.decide(fleet, forecasts, memory), fleet, restarts)

    def _still(self, fleet: FleetState) -> Iterator[RestartReplica]:
        seen: dict[str, _Still] = {}
        for pool in fleet.pools:
            for one in pool.replicas:
                if one.phase is not Phase.READY or one.metrics is None:
                    continue
                name = pool.key.replica(one.life)
                seen[name] = now = self._look(self._seen.get(name), one)
                if now.intervals >= self.scrapes:
                    yield RestartReplica(one.id, pool.key, "running > 0 and no tokens")
        self._seen = seen

    def _look(self, before: _Still | None, replica: ReplicaState) -> _Still:
        told = replica.metrics
        assert told is not None  # noqa: S101 - asked before
        if before is not None and told.observed_at <= before.at:
            return before
        stands = before is not None and told.running_requests > 0 and told.output_tokens_total <= before.tokens
        return _Still(told.observed_at, told.output_tokens_total, before.intervals + 1 if before and stands else 0)


@dataclass(frozen=True, slots=True)
class _Still:
    """The newest sample of a replica, and over how many intervals up to it no token came."""

    at: float
    tokens: float
    intervals: int


def _healed(decision: Decision, fleet: FleetState, remedies: tuple[Remediation, ...]) -> Decision:
    """Return the decision with these remedies, and no others, and with traffic shared as a Service does."""
    return replace(decision, remediations=remedies, traffic=even_traffic(fleet), anomalies=(), diagnoses=())


_MADE: Mapping[str, Callable[[PolicySettings], Policy]] = {
    FORESAIL: Foresail,
    "kubelet": Kubelet,
    "naive": Naive,
    "naive-eager": lambda settings: Naive(settings, 1, "naive-eager"),
}

OTHERS = tuple(name for name in _MADE if name != FORESAIL)
"""Every rival; to ``naive-eager`` one interval without a token is enough."""
