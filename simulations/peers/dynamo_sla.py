"""What would NVIDIA Dynamo's planner do for latency objectives, with prediction and reaction together?

Follows ``components/src/dynamo/planner/core`` of ai-dynamo/dynamo 1.2, mode ``agg`` (``disagg`` where there are prefill
and decode pools: each is sized by its own objective), ``optimization_target: sla`` with throughput and load scaling on:

* every 180 s (``throughput_scaling.py``) requests, prompt length and output length of the next interval are predicted
  by an ARIMA each (``arima.py``); what one engine carries within both objectives is read off its performance model
  (``perf_model/agg.py``: the largest batch that keeps them, by Little's law); their quotient is a lower bound;
* every 5 s (``load_scaling.py``) TTFT and ITL of a next request are estimated per worker. If all workers are above an
  objective, one replica more; if with one fewer the wait for prefill would take less than 80 % of what TTFT leaves for
  it, ITL would stay under 80 %, and the KV cache would hold it all, one less, but not below the bound. While replicas
  are on their way it only watches.

The performance model is the planner's regression of step time on prefill and KV tokens; here it is the profile's step
time, which is what profiling would find. ``profile_ratio`` derates it. The objectives are the operator's (the shipped
500 ms and 50 ms are placeholders). The original hears of every forward pass and counts requests at its frontend; here
engines and gateway are read every 5 s, prompt tokens per step are the growth of two counters, and the queue is requests
waiting times the recent mean prompt. Where load was recorded before the run the predictors start from it
(``load_predictor_warmup_trace``, which is off as shipped; ``warm_up: false`` does that).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from forecasting.forecast import LoadForecast
from forecasting.series import OUTPUT_TOKENS, PROMPT_TOKENS, REQUESTS, LoadSeries
from policies.decisions import Decision
from policies.engine_profile import EngineProfile
from policies.fleet import Demand, FleetState, PoolState, Role
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from policies.slo import ServiceObjective
from simulations.peers.answer import Sized, each_pool
from simulations.peers.arima import NextValue
from simulations.peers.dynamo_load import MIN_ENDPOINT, DynamoRhythm, Worker, heard
from simulations.peers.signals import output_tokens, prompt_tokens, share_of


class DynamoSlaSettings(DynamoRhythm):
    """Defaults of ``SLAPlannerDefaults``."""

    interval_s: float = Field(180.0, gt=0, le=86400, description="Seconds between predictions.")
    down_sensitivity: float = Field(
        0.8, gt=0, le=1, description="Share of the objectives that one replica fewer may take up."
    )
    profile_ratio: float = Field(
        1.0, gt=0, le=2, description="Share of the load that the performance model promises which is counted with."
    )
    order_once: bool = Field(
        False, description="Choose the ARIMA's order once, at five points, as the planner does, and never again."
    )
    warm_up: bool = Field(
        True, description="Show the predictors the load recorded before the run, where there is some."
    )


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean prompt (less what caches hold) and output of the requests to come."""

    prompt: float
    output: float


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long one step of an engine takes: what the planner's regression would have learned."""

    profile: EngineProfile
    role: Role = Role.UNIFIED

    def seconds(self, prefill_tokens: float, kv_tokens: float, lengths: Lengths) -> float:
        """Return the time of a step that prefills and decodes this much, for requests of these lengths."""
        engine, held = self.profile, max(1.0, lengths.prompt + lengths.output / 2.0)
        base_s = max(engine.decode_base_s * (kv_tokens > 0), engine.prefill_base_s * (prefill_tokens > 0))
        per_prompt_token_s = engine.prefill_per_token_s + engine.prefill_per_token2_s * lengths.prompt
        decode_s = kv_tokens * (engine.decode_per_kv_token_s + engine.decode_per_sequence_s / held)
        return base_s + prefill_tokens * per_prompt_token_s + decode_s

    def ttft_s(self, queued_tokens: float, kv_tokens: float, lengths: Lengths) -> float:
        """Return the TTFT of a request that comes now: queue and own prompt, in whole chunks beside decoding."""
        chunk, left = float(self.profile.max_batched_tokens), queued_tokens + lengths.prompt
        whole, rest = divmod(left, chunk)
        took_s = whole * self.seconds(chunk, kv_tokens, lengths)
        return took_s + (self.seconds(rest, kv_tokens, lengths) if rest > 0 else 0.0)

    def requests_per_s(self, lengths: Lengths, objective: ServiceObjective) -> float:
        """Return what one engine carries within both objectives; at a batch of one, if even that is too slow.

        A prefill engine: one prompt after the other, as the planner's profile of one measures it.
        """
        engine = self.profile
        if self.role is Role.PREFILL:
            return 1.0 / self.ttft_s(0.0, 0.0, lengths)
        held, output = max(1.0, lengths.prompt + lengths.output / 2.0), max(1.0, lengths.output)
        most = min(engine.kv_cache_tokens / held, engine.max_running, engine.max_batched_tokens - 1)
        # Prefill keeps up with decode: x <= output * budget / (prompt + output).
        prompt = 0.0 if self.role is Role.DECODE else lengths.prompt
        most = min(most, output * engine.max_batched_tokens / max(1.0, prompt + output))
        best = 0.0
        for batch in range(1, max(1, int(most)) + 1):
            prefill = min(batch * prompt / output, float(engine.max_batched_tokens))
            step_s = self.seconds(prefill, batch * held, lengths)
            late = step_s > objective.tpot_s
            if self.role is Role.UNIFIED:
                late = late or self.ttft_s(prefill, batch * held, lengths) > objective.ttft_s
            if late and batch > 1:
                break
            best = batch / (output * step_s)
            if late:
                break
        return best


@dataclass(slots=True)
class _Planner:
    """State of one pool's planner."""

    requests: NextValue
    prompt: NextValue
    output: NextValue
    seen: list[Demand] = field(default_factory=list)
    predicted_at: float | None = None
    bound: int = MIN_ENDPOINT
    counters: dict[str, tuple[float, float]] = field(default_factory=dict)
    prefill_per_step: float = 0.0
    lengths: Lengths | None = None


@dataclass(slots=True)
class DynamoSla:
    """One planner per pool, which lives as long as the run.

    Attributes:
        pools: Bounds and profiles per pool, by key text.
        objective: TTFT and TPOT to keep.
        before: Load recorded before the run, of the one model there is.
    """

    pools: Mapping[str, PoolSettings]
    objective: ServiceObjective
    settings: DynamoSlaSettings
    before: LoadSeries | None = None
    name: str = "dynamo-sla"
    _planners: dict[str, _Planner] = field(default_factory=dict)
    _began_at: float = math.inf

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what each pool's planner asks for."""
        self._began_at = min(self._began_at, fleet.at)
        return each_pool(fleet, memory, self.pools, lambda pool, bounds: self._sized(fleet, pool, bounds))

    def _sized(self, fleet: FleetState, pool: PoolState, bounds: PoolSettings) -> Sized:
        name = str(pool.key)
        if name not in self._planners:
            self._planners[name] = self._started(share_of(fleet, pool))
        planner, steps = self._planners[name], StepTime(bounds.profile, pool.key.role)
        self._observe(planner, fleet, pool)
        if planner.predicted_at is None:
            planner.predicted_at = fleet.at
        elif fleet.at - planner.predicted_at >= self.settings.interval_s:
            self._predict(planner, steps, share_of(fleet, pool), fleet.at)
        current = max(MIN_ENDPOINT, pool.desired)
        workers = heard(fleet, pool, bounds)
        planner.lengths = lengths = _lengths(fleet, pool.key.model) or planner.lengths  # idle: as they last were
        if workers is None or lengths is None or fleet.at < self._began_at + self.settings.settle_s:
            return Sized(current, "watching", "workers are on their way, or not heard")
        wanted = reaction(workers, steps, lengths, planner.prefill_per_step, self.objective, self.settings)
        bounded = max(current + wanted, planner.bound, MIN_ENDPOINT)
        return Sized(bounded, "load" if bounded == current + wanted else "prediction", f"lower bound {planner.bound}")

    def _started(self, share: float) -> _Planner:
        once, interval_s = self.settings.order_once, self.settings.interval_s
        planner = _Planner(NextValue(once=once), NextValue(once=once), NextValue(once=once))
        if self.settings.warm_up and self.before is not None:
            factor = max(1, round(interval_s / self.before.step_s))
            steps = len(self.before) // factor
            newest = self.before.values[len(self.before) - steps * factor :]
            rows = newest.reshape(steps, factor, newest.shape[1])
            for block in rows:
                known = block[~np.isnan(block).any(axis=1)]
                if len(known):
                    mean = known.mean(axis=0)
                    demand = Demand(float(mean[REQUESTS]), float(mean[PROMPT_TOKENS]), float(mean[OUTPUT_TOKENS]))
                    self._learn(planner, [demand], share)
        return planner

    def _observe(self, planner: _Planner, fleet: FleetState, pool: PoolState) -> None:
        """Keep the load of this interval, and prompt tokens per step from two counters that grow."""
        demand = fleet.demand.get(pool.key.model)
        if demand is not None:
            planner.seen.append(demand)
        steps = prompts = 0.0
        counters = {}
        seen = np.flatnonzero(pool.roster.serving & pool.told.scraped).tolist()
        told = zip(
            pool.told.of("steps_total")[seen].tolist(), pool.told.of("prompt_tokens_total")[seen].tolist(), strict=True
        )
        for place, now in zip(seen, told, strict=True):
            life = pool.roster.lives[place]
            counters[life] = now
            before = planner.counters.get(life, now)
            if now[0] > before[0] and now[1] >= before[1]:
                steps, prompts = steps + now[0] - before[0], prompts + now[1] - before[1]
        planner.counters = counters
        if steps > 0:
            planner.prefill_per_step = prompts / steps

    def _learn(self, planner: _Planner, seen: Sequence[Demand], share: float) -> None:
        """Show the predictors one interval; lengths of an interval without requests are zeros, as there."""
        rate = math.fsum(demand.requests_per_s for demand in seen) / len(seen)
        prompts = math.fsum(d.prompt_tokens_per_s * (1.0 - d.cached_prompt_ratio) for d in seen) / len(seen)
        outputs = math.fsum(demand.output_tokens_per_s for demand in seen) / len(seen)
        planner.requests.add(rate * share * self.settings.interval_s)
        planner.prompt.add(prompts / rate if rate > 0 else 0.0)
        planner.output.add(outputs / rate if rate > 0 else 0.0)

    def _predict(self, planner: _Planner, steps: StepTime, share: float, at: float) -> None:
        """Set the lower bound for the next interval; an interval in which nothing was observed changes nothing."""
        planner.predicted_at, seen, planner.seen = at, planner.seen, []
        if not seen:
            return
        self._learn(planner, seen, share)
        lengths = Lengths(planner.prompt.expected(), planner.output.expected())
        if lengths.prompt <= 0 or lengths.output <= 0:
            return
        one = steps.requests_per_s(lengths, self.objective) * self.settings.profile_ratio
        per_s = planner.requests.expected() / self.settings.interval_s
        planner.bound = max(MIN_ENDPOINT, math.ceil(per_s / one))


_OF_NO_CONCERN = {Role.PREFILL: {"tpot_s": math.inf}, Role.DECODE: {"ttft_s": math.inf}}


def reaction(
    workers: Sequence[Worker],
    steps: StepTime,
    lengths: Lengths,
    prefill_per_step: float,
    objective: ServiceObjective,
    settings: DynamoSlaSettings,
) -> int:
    """Return +1 if all workers miss an objective, -1 if one fewer would keep both with room to spare, else 0.

    Prefill workers have one for TTFT, decode workers one for TPOT.
    """
    objective = objective.model_copy(update=_OF_NO_CONCERN.get(steps.role, {}))
    held = lengths.prompt + lengths.output / 2.0
    ttft = [steps.ttft_s(worker.queued_tokens, worker.kv_tokens, lengths) for worker in workers]
    tpot = [steps.seconds(prefill_per_step, worker.kv_tokens + held, lengths) for worker in workers]
    if all(seconds > objective.ttft_s for seconds in ttft) or all(seconds > objective.tpot_s for seconds in tpot):
        return 1
    if len(workers) < 2:
        return 0
    more = len(workers) / (len(workers) - 1)
    for worker in workers:
        kv_tokens, queued = worker.kv_tokens * more, worker.queued_tokens * more
        own_s = steps.ttft_s(0.0, kv_tokens, lengths)
        left_s = (objective.ttft_s - own_s) * settings.down_sensitivity
        waits_s = steps.ttft_s(queued, kv_tokens, lengths) - own_s
        combined = kv_tokens + queued
        tpot_s = steps.seconds(prefill_per_step, combined + held, lengths)
        full = combined >= worker.capacity and steps.role is not Role.PREFILL
        if full or left_s <= 0 or waits_s >= left_s or tpot_s >= objective.tpot_s * settings.down_sensitivity:
            return 0
    return -1


def _lengths(fleet: FleetState, model: str) -> Lengths | None:
    prompt, output = prompt_tokens(fleet, model), output_tokens(fleet, model)
    return None if prompt is None or output is None else Lengths(prompt, output)
