"""Does Foresail see the pods of a Deployment come, become ready and go?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.kinds import DEPLOYMENTS
from controller.adapters.system_clock import SystemClock
from policies.fleet import Phase, PoolState
from tests.builders_any_cluster import Hands


@pytest.fixture
def view(hands: Hands) -> Iterator[KubernetesView]:
    made = KubernetesView(hands.settings, SystemClock().elapsed, np.random.default_rng(0))
    made.start()
    try:
        yield made
    finally:
        made.close()


def pool_of(view: KubernetesView, model: str) -> PoolState | None:
    return next((pool for pool in view.pools() if pool.key.model == model), None)


def ready(view: KubernetesView, model: str) -> list[str]:
    pool = pool_of(view, model)
    return [one.id for one in pool.replicas if one.phase is Phase.READY] if pool else []


def test_a_deployment_becomes_a_pool_whose_replicas_come_and_go(view: KubernetesView, hands: Hands) -> None:
    hands.deployment("llama", 2, {"foresail.dev/model": "llama", "foresail.dev/pool": "here"})
    hands.until(lambda: len(ready(view, "llama")) == 2)
    pool = pool_of(view, "llama")
    assert pool is not None
    assert (pool.key.pool, pool.desired) == ("here", 2)
    assert {one.id for one in pool.replicas} == {pod["metadata"]["name"] for pod in hands.pods("llama")}
    assert len({one.revision for one in pool.replicas}) == 1

    hands.scaled("llama", 1)
    hands.until(lambda: len(ready(view, "llama")) == 1)
    hands.until(lambda: len(hands.pods("llama")) == 1)
    assert ready(view, "llama") == [pod["metadata"]["name"] for pod in hands.pods("llama")]

    hands.delete(DEPLOYMENTS, "llama")
    hands.until(lambda: pool_of(view, "llama") is None)


def test_no_pools_are_told_that_are_older_than_a_write_of_our_own(view: KubernetesView, hands: Hands) -> None:
    hands.deployment("qwen", 1, {"foresail.dev/model": "qwen"})
    hands.until(lambda: len(ready(view, "qwen")) == 1)
    for replicas in (3, 0, 2):
        written = hands.scaled("qwen", replicas)
        view.wrote(DEPLOYMENTS, hands.namespace, written["metadata"]["resourceVersion"])
        pool = pool_of(view, "qwen")
        assert pool is not None
        assert pool.desired == replicas


def test_an_evicted_pod_is_seen_to_be_replaced_by_another(view: KubernetesView, hands: Hands) -> None:
    hands.deployment("gemma", 2, {"foresail.dev/model": "gemma"})
    before = hands.until(lambda: names if len(names := ready(view, "gemma")) == 2 else [])
    hands.evict(before[0])
    after = hands.until(lambda: names if len(names := ready(view, "gemma")) == 2 and before[0] not in names else [])
    assert before[1] in after
