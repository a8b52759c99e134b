"""What the daemon publishes: its real registry, after ticks, chores and looks at forecasts of every kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controller.cluster_figures import ClusterFigures, WatchFigures
from controller.cluster_series import LeaseFigures
from controller.plan_expiry import STALE
from controller.ports import ActResult
from controller.shard_settings import ShardSettings
from controller.telemetry import Telemetry
from controller.telemetry_settings import TelemetrySettings
from forecasting.contest import Standing
from forecasting.drift import Drift
from forecasting.forecast import LoadForecast
from policies.placement import PoolSettings
from policies.settings import PolicySettings
from tests.builders_records import MODEL, POOL, SPARE, busy_tick, quiet_tick, scaling_tick

PROFILE = "llama-3.1-70b-a100-tp4"


def published() -> Mapping[str, set[str]]:
    """Return the labels of every metric that is published, by its name."""
    pools = {str(key): PoolSettings(profile=PROFILE) for key in (POOL, SPARE)}  # type: ignore[arg-type]
    telemetry = Telemetry(TelemetrySettings(), lambda: 1000.0, "1.2.3")
    telemetry.configure(TelemetrySettings(namespace="serving"), PolicySettings(pools=pools))
    values = np.stack([np.full((15, 3), rate) for rate in (10.0, 12.0)])
    stale = ActResult("scale", str(POOL), "failed", f"{STALE}: it is at generation 4, not 3")
    telemetry.tick_ended(replace(quiet_tick(-60.0), results=(stale,)), "acted", 0.2, 0)
    for number, record in enumerate((scaling_tick(0.0), quiet_tick(60.0), busy_tick(120.0))):
        at = 60.0 * number
        forecast = LoadForecast.ordered(at, 60.0, np.array([0.5, 0.9]), values, "lstm 7")
        with telemetry.phases("decide"):
            telemetry.tick_ended(replace(record, forecasts={MODEL: forecast}), "acted", 0.2, 0)
    standing, skills = Standing(40, 0.2, 0.04), {(MODEL, "300", "champion"): 0.25}
    telemetry.skill_seen({"champion": standing}, {"champion": "7"}, (Drift("error", "worse"),), skills)
    telemetry.show_cluster(_figures, _lease)
    telemetry.show_shard(ShardSettings(index=1, of=3))
    telemetry.reloaded("applied", current=True)
    telemetry.chore_done("champion", "done")
    labels: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(generate_latest(telemetry.registry).decode()):
        for sample in family.samples:
            labels[sample.name] |= set(sample.labels)
    return labels


def _figures() -> ClusterFigures:
    watches = (WatchFigures("", "pods", 12.0, 1, 0),)
    return ClusterFigures(watches, {("", "get", "2xx"): 3}, {"told": 1, "refused": 0, "dropped": 0})


def _lease() -> LeaseFigures:
    return LeaseFigures(1.5, 600.0, 2, {"held": 300})
