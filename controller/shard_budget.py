"""What may a shard spend now, where another one already has more than its part of a budget?

Parts sum to the budget of the fleet. But nothing that runs is taken away for a budget, so that a shard that has more
than its part, as after a new division, keeps it. The others then have that much less: each sees what all workloads are
asked for, and takes what is beyond another one's part off its own. Who has more than its part does not grow, and nobody
grows beyond its own part: all together never ask for more than the fleet may have, however late each hears of others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from controller.shard_settings import ShardSettings, Spent
from forecasting.forecast import LoadForecast
from policies.decide import Foresail
from policies.decisions import Decision
from policies.fleet import FleetState
from policies.guardrails import GuardrailSettings
from policies.memory import PolicyMemory
from policies.settings import PolicySettings


class ShardPolicy:
    """``Foresail`` for one shard, with what is left to it of the budgets of the fleet.

    Attributes:
        name: As that of ``Foresail``.
    """

    def __init__(
        self, settings: PolicySettings, shard: ShardSettings, spent: Callable[[], Mapping[int, Spent]]
    ) -> None:
        """``spent`` returns what is asked for elsewhere, by shard, as of the newest look at the platform."""
        self._settings, self._shard, self._spent = settings, shard, spent
        self._left = Spent()
        self._policy = Foresail(settings)
        self.name = self._policy.name

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what to do about ``fleet``; see :func:`policies.decide.decide`."""
        overdrawn = self._shard.overdrawn(self._spent())
        if overdrawn != self._left:
            self._left = overdrawn
            guardrails = less(self._settings.guardrails, overdrawn)
            self._policy = Foresail(self._settings.model_copy(update={"guardrails": guardrails}))
        return self._policy.decide(fleet, forecasts, memory)


def less(guardrails: GuardrailSettings, spent: Spent) -> GuardrailSettings:
    """Return the budgets that are left where others have ``spent`` of them."""
    gpus, usd = guardrails.gpu_budget, guardrails.usd_per_hour_budget
    left = {
        "gpu_budget": None if gpus is None else max(0, gpus - spent.gpus),
        "usd_per_hour_budget": None if usd is None else max(0.0, usd - spent.usd_per_hour),
    }
    return guardrails.model_copy(update=left)
