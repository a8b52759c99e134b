"""Does each policy show what became of a tick, against a real API server over HTTP, without any tick waiting for it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.adapters.kube.changes import Fence, unfenced
from controller.adapters.kube.permissions import Feature, Installation, permissions
from controller.adapters.kube.policies import ScalingPolicies
from controller.adapters.kube.policy_writer import Pace
from controller.adapters.system_clock import SystemClock
from controller.ports import TickRecord
from controller.settings import Settings
from policies.decide import Foresail
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders import AT, MODEL, a_bench, forecast, pool
from tests.builders_kube_api import MERGE, settings_for
from tests.builders_policies import InCluster, Policies, pool_json, until

QUICK = Pace(changes_every_s=0.0, figures_every_s=0.0, between_s=0.0)
ASKED: dict[str, Any] = {"model": MODEL, "modes": {"scaling": "auto"}, "pools": [pool_json(minReplicas=5)]}


@pytest.fixture(name="api")
def _api() -> Iterator[RunningApi]:
    with running_api() as api:
        yield api


@contextmanager
def following(
    api: RunningApi, folder: Path, pace: Pace = QUICK, fence: Fence = unfenced, **more: Any
) -> Iterator[tuple[ScalingPolicies, Callable[[], Settings]]]:
    """Yield policies that are watched, and what lays them over empty settings."""
    policies = ScalingPolicies(SystemClock().elapsed, np.random.default_rng(7), fence, pace)
    cluster = InCluster(policies, settings_for(api, folder, policies=True, **more))
    try:
        yield policies, lambda: cluster.lay_over(Settings())
    finally:
        policies.close()


def tick(settings: Settings, at: float = AT, replicas: int = 3, rate: float = 12.0) -> TickRecord:
    bench = a_bench(pool(replicas), policy=Foresail(settings.policy), modes=settings.modes)
    return replace(bench.tick(), at=at, forecasts={MODEL: forecast(rate)})


def told(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in status.get("conditions", ())}


def look_twice(writes: Policies, policies: ScalingPolicies, record: TickRecord) -> None:
    """Let a tick be shown, and return once every policy has been looked at and what followed is written.

    That is known by what stands in the status of the policy ``z``, which is put right each time.
    """

    def right() -> bool:
        policies.saw(record)
        return bool(writes.status("z")["mode"] == "auto")

    for _ in range(2):
        writes.api.call("PATCH", f"{writes.PATH}/z/status", {"status": {"mode": "observe"}}, MERGE)
        until(right)


def test_a_policy_shows_the_newest_tick(api: RunningApi, tmp_path: Path) -> None:
    writes = Policies(api)
    writes.create("m", **ASKED)
    with following(api, tmp_path) as (policies, lay):
        settings = lay()
        policies.saw(tick(settings))
        until(lambda: writes.status("m").get("desired") == 5)
        first = writes.status("m")
        assert (first["current"], first["mode"], first["observedGeneration"]) == (3, "auto", 1)
        assert told(first)["Active"] == ("True", "Auto")
        assert writes.get("m")["metadata"]["generation"] == 1
        policies.saw(tick(settings, AT + 60.0, replicas=5))
        until(lambda: writes.status("m").get("current") == 5)
        since = [
            {each["lastTransitionTime"] for each in status["conditions"]} for status in (first, writes.status("m"))
        ]
        assert since[0] == since[1]


def test_an_invalid_policy_is_told_what_is_wrong_and_where_and_others_are_shown(
    api: RunningApi, tmp_path: Path
) -> None:
    writes = Policies(api)
    writes.create("m", **ASKED)
    writes.create("bad", pools=[pool_json(profile="no-such")])
    with following(api, tmp_path) as (policies, lay):
        policies.saw(tick(lay()))
        until(lambda: "desired" in writes.status("m") and bool(told(writes.status("bad"))))
    assert told(writes.status("bad"))["Accepted"] == ("False", "Invalid")
    assert writes.status("bad")["conditions"][0]["message"].startswith("spec.pools[0].profile: unknown engine profile")
    assert told(writes.status("m"))["Accepted"] == ("True", "Accepted")


def test_nothing_is_written_while_nothing_changes(api: RunningApi, tmp_path: Path) -> None:
    writes = Policies(api)
    writes.create("m", **ASKED)
    writes.create("z", **{**ASKED, "model": "z"})
    with following(api, tmp_path) as (policies, lay):
        settings = lay()
        policies.saw(tick(settings))
        until(lambda: bool(told(writes.status("m")) and told(writes.status("z"))))
        before = writes.get("m")
        look_twice(writes, policies, tick(settings, AT + 60.0))
        assert writes.get("m") == before


def test_what_moves_at_every_tick_is_written_less_often_than_what_is_news(api: RunningApi, tmp_path: Path) -> None:
    writes = Policies(api)
    writes.create("m", **ASKED)
    writes.create("z", **{**ASKED, "model": "z"})
    with following(api, tmp_path, Pace(0.0, 3600.0, 0.0)) as (policies, lay):
        settings = lay()
        policies.saw(tick(settings))
        until(lambda: bool(told(writes.status("m")) and told(writes.status("z"))))
        look_twice(writes, policies, tick(settings, rate=90.0))
        assert writes.status("m")["forecast"].startswith("12 ")
        policies.saw(tick(settings, replicas=4, rate=70.0))
        until(lambda: writes.status("m").get("current") == 4)
        assert writes.status("m")["forecast"].startswith("70 ")


def test_a_policy_is_left_alone_for_so_long_after_a_write(api: RunningApi, tmp_path: Path) -> None:
    writes = Policies(api)
    writes.create("m", **ASKED)
    with following(api, tmp_path, Pace(3600.0, 3600.0, 0.0)) as (policies, lay):
        policies.saw(tick(lay()))
        until(lambda: writes.status("m").get("current") == 3)
        writes.create("z", **{**ASKED, "model": "z"})
        until(lambda: "z" in {verdict.policy.name for verdict in _laid(policies, lay)})
        policies.saw(tick(lay(), replicas=4))
        until(lambda: bool(told(writes.status("z"))))
        assert writes.status("m")["current"] == 3


def test_each_policy_gets_its_turn_however_often_a_tick_comes_in_between(api: RunningApi, tmp_path: Path) -> None:
    writes = Policies(api)
    names = [f"m{number}" for number in range(6)]
    for name in names:
        writes.create(name, model=MODEL, pools=[pool_json(name)])
    ticks = iter(range(1000))

    def another_tick(_: float) -> str:
        policies.saw(TickRecord(AT, None, {}, None, error=f"tick {next(ticks)}"))
        return ""

    with following(api, tmp_path, fence=another_tick) as (policies, lay):
        lay()
        policies.saw(TickRecord(AT, None, {}, None, error="the first"))
        until(lambda: all(told(writes.status(name)) for name in names))
        policies.fence = unfenced


def test_behind_a_closed_fence_nothing_is_written_until_it_opens(api: RunningApi, tmp_path: Path) -> None:
    writes = Policies(api)
    writes.create("m", **ASKED)
    asked: list[float] = []

    def closed(within_s: float) -> str:
        asked.append(within_s)
        return "another one holds the lease"

    with following(api, tmp_path, fence=closed) as (policies, lay):
        record = tick(lay())
        policies.saw(record)
        until(lambda: bool(asked))
        assert writes.status("m") == {}
        policies.fence = unfenced
        policies.saw(tick(lay()))
        until(lambda: writes.status("m").get("current") == 3)


def test_no_tick_waits_for_a_server_that_hangs_and_what_was_missed_is_shown_afterwards(
    api: RunningApi, tmp_path: Path
) -> None:
    writes = Policies(api)
    writes.create("m", **ASKED)
    with following(api, tmp_path, write_timeout_s=0.3) as (policies, lay):
        settings = lay()
        records = [tick(settings, replicas=count) for count in (3, 4)]
        api.partition("hang")
        began_s = SystemClock().elapsed()
        policies.saw(records[0])
        assert SystemClock().elapsed() - began_s < 0.1  # an unanswered write takes three times as long
        api.heal()

        def again() -> bool:
            policies.saw(records[1])
            return bool(writes.status("m").get("current") == 4)

        until(again)


@pytest.mark.parametrize("status", [403, 409, 500])
def test_a_refused_write_is_tried_again_at_a_later_tick(api: RunningApi, tmp_path: Path, status: int) -> None:
    writes = Policies(api)
    writes.create("m", **ASKED)
    with following(api, tmp_path) as (policies, lay):
        settings = lay()
        api.fault(Fault(code=status, verbs=("patch",), times=1))

        def again() -> bool:
            policies.saw(tick(settings))
            return bool(writes.status("m").get("current") == 3)

        until(again)


def test_the_rights_of_the_feature_are_enough(api: RunningApi, tmp_path: Path) -> None:
    writes = Policies(api)
    writes.create("m", **ASKED)
    rights = permissions(Installation(frozenset({Feature.POLICIES})))
    rules = [Rule(each.verbs, (each.resource,), (each.group,)) for each in rights if each.feature is Feature.POLICIES]
    api.grant("t", Subject("foresail", rules=tuple(rules)))
    with following(api, tmp_path, known_as="t") as (policies, lay):
        policies.saw(tick(lay()))
        until(lambda: writes.status("m").get("current") == 3)


def test_a_policy_that_is_deleted_or_edited_meanwhile_gets_no_status_of_another_version(
    api: RunningApi, tmp_path: Path
) -> None:
    writes = Policies(api)
    writes.create("m", **ASKED)
    writes.create("gone", **{**ASKED, "model": "gone"})
    with following(api, tmp_path) as (policies, lay):
        record = tick(lay())
        writes.delete("gone")
        writes.edit("m", modes={"scaling": "observe"})

        def shown() -> bool:
            policies.saw(record)
            return bool(told(writes.status("m")))

        until(shown)
        status = writes.status("m")
    assert (status["observedGeneration"], status["mode"]) == (1, "auto")
    assert writes.get("m")["metadata"]["generation"] == 2


def _laid(policies: ScalingPolicies, lay: Callable[[], Settings]) -> tuple[Any, ...]:
    lay()
    laid = policies.laid
    return laid.verdicts if laid else ()
