"""What does a scrape of a replica show, and what do all scrapes together show of the prefix caches?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from simulations.kernel.scraping import DECODE_POWER, HUNG_POWER, IDLE_POWER, PREFILL_POWER
from tests.reference.plain_engine import PlainEngine
from tests.reference.plain_parties import Replica


def scrape(replica: Replica, at: float, world: Any, state: Any) -> None:
    """Sample the replica into ``state``, unless the scrape is lost."""
    record = state.replicas[replica.number]
    before = replica.samples[-1][1] if replica.samples else None
    figures = None
    if at >= record["scrape_lost_until"]:
        stuck = before is not None and at < record["exporter_stuck_until"]
        figures = before if stuck else _figures(replica)
        if figures is not None:
            figures = (*figures[:12], *_gpus(replica, record), *figures[15:])
        if not stuck and replica.engine is not None:
            _see_prefixes(replica, replica.engine, world)
    replica.samples.append((at, figures))
    kept = state.samples.shape[1]
    state.samples[replica.number, record["samples"] % kept] = (
        (at, *figures, 1) if figures is not None else (at, *([0.0] * 17), 0)
    )
    record["samples"] += 1


def _figures(replica: Replica) -> tuple[float, ...] | None:
    engine = replica.engine
    if engine is None:
        return None
    ttft_p95_s = float(np.quantile(replica.ttft_s, 0.95)) if replica.ttft_s else math.nan
    tpot_mean_s = math.fsum(replica.tpot_s) / len(replica.tpot_s) if replica.tpot_s else math.nan
    replica.ttft_s, replica.tpot_s = [], []
    return (
        0.0 if replica.shows_zero else len(engine.running),
        len(engine.waiting),
        engine.kv_cache_ratio,
        engine.steps_total,
        engine.prompt_tokens_total,
        engine.output_tokens_total,
        replica.finished - replica.finished_hidden,
        replica.failed - replica.failed_hidden,
        ttft_p95_s,
        tpot_mean_s,
        engine.preemptions_total,
        replica.aborted,
        *(math.nan,) * 3,
        engine.looked_up_tokens_total,
        engine.cached_tokens_total,
    )


def _gpus(replica: Replica, record: Any) -> tuple[float, float, float]:
    """Return Xid, power and clock: high power in a step that goes on."""
    power = IDLE_POWER
    if replica.engine is not None and replica.busy:
        power = HUNG_POWER
        if not replica.hung:
            power = (PREFILL_POWER if replica.engine.prefills else DECODE_POWER) * record["gpu_clock"]
    return record["gpu_xid"], power * record["gpu_scale"], record["gpu_clock"]


def _see_prefixes(replica: Replica, engine: PlainEngine, world: Any) -> None:
    """Add up over all replicas and lives what their caches were asked for, and had."""
    world["seen_looked_up"] += engine.looked_up_tokens_total - replica.seen_looked_up
    world["seen_cached"] += engine.cached_tokens_total - replica.seen_cached
    replica.seen_looked_up, replica.seen_cached = engine.looked_up_tokens_total, engine.cached_tokens_total
