"""Which answers of the metrics store are about workloads of this shard, where other shards have the rest of the fleet?

A store is asked of the whole fleet: what tells two models apart is in no label that all series have. What is of another
shard is left out as soon as it is known of which model it is, before anything is remembered or forecast of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import compress

import numpy as np

from controller.adapters.fleet_answers import ReplicaTable, Target
from controller.adapters.gateway_view import GatewayFigures
from controller.offered_load import Arrivals
from controller.shard_settings import ShardSettings


def replicas_elsewhere(
    targets: Sequence[Target], table: ReplicaTable, models: Sequence[str], shard: ShardSettings
) -> frozenset[str]:
    """Return the names of replicas of other shards; of whom nobody tells a model is nobody's.

    Args:
        targets: Where replicas are scraped.
        table: What they say.
        models: Of each row of that; empty where it is not known.
        shard: Which models are ours.
    """
    has = {model: shard.has(model) for model in {*models, *(target.model for target in targets)} if model}
    named = zip(table.names, models, strict=True)
    return frozenset(
        name for name, model in (*named, *((t.replica, t.model) for t in targets)) if not has.get(model, True)
    )


def own_rows(
    table: ReplicaTable, models: Sequence[str], elsewhere: Collection[str]
) -> tuple[ReplicaTable, Sequence[str]]:
    """Return what our replicas say, and the model of each."""
    kept = [name not in elsewhere for name in table.names]
    places = np.flatnonzero(kept)
    columns = {name: column[places] for name, column in table.columns.items()}
    rows = [list(compress(words, kept)) for words in (table.names, table.pools, table.models, models)]
    return ReplicaTable(rows[0], rows[1], rows[2], table.sampled_at[places], columns), rows[3]


def own_figures(seen: GatewayFigures, elsewhere: Collection[str], shard: ShardSettings) -> GatewayFigures:
    """Return what gateways say of our models and replicas."""

    def of_models(told: Mapping[str, float]) -> dict[str, float]:
        return {model: value for model, value in told.items() if shard.has(model)}

    def of_replicas(told: Mapping[str, float]) -> dict[str, float]:
        return {name: value for name, value in told.items() if name not in elsewhere}

    unknown = {model: why for model, why in seen.arrivals.unknown.items() if shard.has(model)}
    return replace(
        seen,
        arrivals=Arrivals(of_models(seen.arrivals.requests_per_s), unknown),
        queued=of_models(seen.queued),
        in_flight=of_replicas(seen.in_flight),
        answered=of_replicas(seen.answered),
        failed_answers=of_replicas(seen.failed_answers),
        unreached=of_replicas(seen.unreached),
    )
