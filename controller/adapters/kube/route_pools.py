"""Which pools of a model stand behind which backend of its route?

A model that is served in one stage has a backend per pool. Where prefill and decode are apart, a route cannot send a
request to both: it leads to one backend, such as an InferencePool, behind which each stage has a pool. Then a backend
gets as much as all of its stages can take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from controller.errors import ActuationError
from policies.fleet import PoolKey, Role


@dataclass(frozen=True, slots=True)
class RoutePools:
    """The pools behind the backends of a route.

    Attributes:
        behind: The pools of each backend, by the backend's name.
        backends: One pool for each backend, with the name of that.
    """

    model: str
    behind: Mapping[str, tuple[PoolKey, ...]]
    backends: Mapping[PoolKey, str]

    @classmethod
    def of(cls, model: str, named: Mapping[str, str]) -> RoutePools:
        """Return them as settings name them: ``pool`` or ``pool/role``, and its backend.

        Raises:
            ValueError: If a name is none, or stages have not the same backends, with one pool at each.
        """
        behind: dict[str, tuple[PoolKey, ...]] = {}
        for name, backend in named.items():
            pool, slash, role = name.partition("/")
            key = PoolKey(model, pool, Role(role) if slash else Role.UNIFIED)
            behind[backend] = *behind.get(backend, ()), key
        stages = [sorted(key.role for key in keys) for keys in behind.values()]
        if any(stage != stages[0] or len(set(stage)) < len(stage) for stage in stages):
            raise ValueError("each stage of the model needs one pool at each backend of the route")
        return cls(model, behind, {keys[0]: backend for backend, keys in behind.items()})

    def of_pools(self, of_backends: Mapping[PoolKey, float]) -> Mapping[PoolKey, float]:
        """Return the share of each pool in what comes to its stage, from those of one pool per backend."""
        return {key: of_backends[keys[0]] for keys in self.behind.values() for key in keys}

    def of_backends(self, wanted: Mapping[PoolKey, float]) -> Mapping[PoolKey, float]:
        """Return the share of one pool per backend: where there are several stages, what the scarcest can take.

        Pools that are to get nothing need not be behind the route.

        Raises:
            ActuationError: If the shares are none, or a backend is left for nobody.
        """
        known = {key for keys in self.behind.values() for key in keys}
        strangers = [str(pool) for pool, share in wanted.items() if pool not in known and share != 0]
        if strangers:
            what = f"{', '.join(strangers)} is behind no backend of the route"
            raise ActuationError(what, self._where, "name it under backends of the route in the settings")
        told = {str(key): share for key, share in wanted.items()}
        if not all(0 <= share < math.inf for share in wanted.values()):
            raise ActuationError(f"no shares: {told}", self._where)
        totals = {
            role: math.fsum(wanted.get(k, 0.0) for k in known if k.role is role) for role in {k.role for k in known}
        }
        if not all(0 < total < math.inf for total in totals.values()):
            raise ActuationError(f"nobody would be left to answer: {told}", self._where)
        least = {keys[0]: min(wanted.get(key, 0.0) / totals[key.role] for key in keys) for keys in self.behind.values()}
        total = math.fsum(least.values())
        if total <= 0:
            raise ActuationError(f"no backend is left that can serve all stages: {told}", self._where)
        return {key: share / total for key, share in least.items()}

    @property
    def _where(self) -> str:
        return f"the route of {self.model}"
