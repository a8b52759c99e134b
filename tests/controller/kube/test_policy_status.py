"""Does a policy show what a real tick decided, and why it is or is not acted on?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft4Validator

from controller.adapters.kube.policy_objects import Policy
from controller.adapters.kube.policy_schema import definition
from controller.adapters.kube.policy_settings import overlay
from controller.adapters.kube.policy_status import Seen, Status, is_figures, patch_of, status_of
from controller.ports import ActResult, TickRecord
from controller.settings import Settings
from policies.decide import Foresail
from policies.fleet import PoolState
from tests.builders import AT, KEY, MODEL, OTHER, a_bench, forecast, pool
from tests.builders_policies import policy, pool_json, settings_of

(VERSION,) = definition()["spec"]["versions"]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]["properties"]["status"]
FORECAST = {MODEL: forecast(12.0)}


def asked(mode: str = "auto", **told: Any) -> Policy:
    spec = {"model": MODEL, "modes": {"scaling": mode}, "pools": [pool_json(minReplicas=5)], **told}
    return policy("m", **{"generation": 3, **spec})


def tick(settings: Settings, *pools: PoolState, killed: bool = False) -> TickRecord:
    """Return a tick of a loop with these settings, in which load is forecast as well."""
    bench = a_bench(*pools, policy=Foresail(settings.policy), modes=settings.modes, killed=killed)
    return replace(bench.tick(), forecasts=FORECAST)


def shown(wanted: Policy, *pools: PoolState, killed: bool = False, before: object = None) -> Status:
    laid = overlay(settings_of(), [wanted], {})
    (verdict,) = laid.verdicts
    record = tick(laid.settings, *pools, killed=killed)
    return status_of(verdict, Seen(record), laid.settings, before)


def conditions(status: Status) -> dict[str, tuple[str, str]]:
    return {told["type"]: (told["status"], told["reason"]) for told in status["conditions"]}


def message(status: Status, kind: str) -> str:
    return next(str(told["message"]) for told in status["conditions"] if told["type"] == kind)


def test_columns_show_what_was_decided() -> None:
    status = shown(asked(), pool(3))
    told = {name: status[name] for name in ("observedGeneration", "current", "desired", "mode")}
    assert told == {"observedGeneration": 3, "current": 3, "desired": 5, "mode": "auto"}
    assert status["target"] >= 1
    assert status["forecast"] == "12 requests/s in 100 s"
    assert status["why"] == "reactive only: no forecast can be trusted: the present and 30% more"
    assert conditions(status) == {
        "Accepted": ("True", "Accepted"), "Active": ("True", "Auto"), "Owned": ("False", "NobodyElse"),
    }  # fmt: skip


def test_the_rule_that_spoke_last_is_why() -> None:
    assert shown(asked(), pool(40))["why"] == "bounds: bounds are 5 to 9"
    assert shown(asked(pools=[pool_json("elsewhere")]), pool(3)).get("why") is None
    stranger = asked(pools=[pool_json("b")])
    assert shown(stranger, pool(3), pool(3, OTHER, owner="HorizontalPodAutoscaler prod/m"))["why"].startswith(
        "other own"
    )


def test_every_column_is_in_the_status_and_the_status_is_what_the_definition_allows() -> None:
    status = shown(asked(), pool(3))
    Draft4Validator({**SCHEMA, "additionalProperties": False}).validate(status)
    paths = [column["jsonPath"] for column in VERSION["additionalPrinterColumns"]]
    of_conditions = {f'.status.conditions[?(@.type=="{told["type"]}")].status' for told in status["conditions"]}
    assert len(of_conditions & set(paths)) == 1
    plain = [path for path in paths if path.startswith(".status.") and path not in of_conditions]
    found = {path: status[path.removeprefix(".status.")] for path in plain}
    assert len(found) == 6
    assert all(value is not None for value in found.values())


def test_counts_are_of_all_pools_of_the_policy_and_of_no_other() -> None:
    both = asked(pools=[pool_json("a", minReplicas=5), pool_json("b", minReplicas=1)])
    status = shown(both, pool(3), pool(4, OTHER, weight=0.0))
    assert (status["current"], status["desired"]) == (7, 9)
    assert shown(asked(), pool(3), pool(4, OTHER, weight=0.0))["current"] == 3


@pytest.mark.parametrize(
    ("mode", "killed", "active", "said"),
    [
        ("observe", False, ("False", "Observe"), "the mode of scaling is observe"),
        ("recommend", False, ("False", "Recommend"), "decided, and not done"),
        ("auto", True, ("False", "Held"), "m/a/unified: "),
        ("auto", False, ("True", "Auto"), "replicas are set as decided"),
    ],
)
def test_it_says_whether_it_is_acted_on_or_what_holds_it(
    mode: str, killed: bool, active: tuple[str, str], said: str
) -> None:
    status = shown(asked(mode), pool(3), killed=killed)
    assert conditions(status)["Active"] == active
    assert said in message(status, "Active")
    assert status["mode"] == mode


def test_what_fails_is_said_before_what_is_held() -> None:
    laid = overlay(settings_of(), [asked()], {})
    results = (ActResult("scale", str(KEY), "failed", "HTTP 403: forbidden"), ActResult("scale", str(OTHER), "held"))
    record = replace(tick(laid.settings, pool(3)), results=results)
    status = status_of(laid.verdicts[0], Seen(record), laid.settings, None)
    assert conditions(status)["Active"] == ("False", "Failed")
    assert message(status, "Active") == "m/a/unified: HTTP 403: forbidden"


def test_another_owner_of_the_replicas_is_named() -> None:
    status = shown(asked(), pool(3, owner="HorizontalPodAutoscaler prod/m"))
    assert conditions(status)["Owned"] == ("True", "OtherOwner")
    assert message(status, "Owned") == "m/a/unified: HorizontalPodAutoscaler prod/m"
    assert conditions(status)["Active"] == ("False", "OwnedByOther")


def test_a_pool_that_no_workload_is_has_no_figures() -> None:
    status = shown(asked(pools=[pool_json("elsewhere")]), pool(3))
    assert conditions(status)["Active"] == ("False", "NoWorkload")
    assert not {"target", "current", "desired", "forecast"} & status.keys()


def test_a_tick_that_saw_nothing_has_no_figures_and_says_why_on_one_line() -> None:
    laid = overlay(settings_of(), [asked()], {})
    record = TickRecord(AT, None, {}, None, error="the API server does not answer\n  -> is it up?")
    status = status_of(laid.verdicts[0], Seen(record), laid.settings, None)
    assert conditions(status)["Active"] == ("False", "NotObserved")
    assert message(status, "Active") == "the API server does not answer -> is it up?"
    assert status["why"] == "not observed: the API server does not answer -> is it up?"
    assert not {"target", "current", "desired", "forecast"} & status.keys()


def test_a_policy_that_is_not_followed_says_why_and_which_version_is() -> None:
    bad = asked(generation=4, pools=[pool_json(profile="no-such")])
    status = shown(bad, pool(3))
    assert conditions(status)["Accepted"] == ("False", "Invalid")
    assert "spec.pools[0].profile: unknown engine profile" in status["why"]
    assert "observedGeneration" not in status
    laid = overlay(settings_of(), [bad], overlay(settings_of(), [asked()], {}).good)
    after = status_of(laid.verdicts[0], Seen(tick(laid.settings, pool(3))), laid.settings, None)
    assert (after["observedGeneration"], after["desired"]) == (3, 5)
    assert conditions(after)["Accepted"] == ("False", "Invalid")
    assert conditions(after)["Active"] == ("True", "Auto")
    assert {told["observedGeneration"] for told in after["conditions"]} == {4}


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    before = shown(asked(), pool(3))
    since = {told["type"]: told["lastTransitionTime"] for told in before["conditions"]}
    assert set(since.values()) == {"1970-01-12T13:46:40Z"}
    laid = overlay(settings_of(), [asked("observe")], {})
    record = replace(tick(laid.settings, pool(3)), at=AT + 60.0)
    after = status_of(laid.verdicts[0], Seen(record), laid.settings, before)
    now = {told["type"]: told["lastTransitionTime"] for told in after["conditions"]}
    assert now == {**since, "Active": "1970-01-12T13:47:40Z"}


def test_conditions_of_others_stay() -> None:
    theirs = {"type": "Synced", "status": "True", "reason": "x", "message": "", "lastTransitionTime": "x"}
    assert shown(asked(), pool(3), before={"conditions": [theirs]})["conditions"][-1] == theirs


def test_only_what_differs_is_patched_and_what_is_no_longer_known_is_taken_away() -> None:
    before = shown(asked(), pool(3))
    assert patch_of(before, before) is None
    after = {**before, "desired": 6}
    del after["forecast"]
    assert patch_of(after, before) == {"desired": 6, "forecast": None}
    assert patch_of(before, "nonsense") == before


def test_figures_that_move_at_every_tick_are_told_from_what_is_news() -> None:
    before = shown(asked(), pool(3))
    assert is_figures({"forecast": "13 requests/s", "why": "x"}, before)
    reworded = [{**told, "message": "x"} for told in before["conditions"]]
    assert is_figures({"conditions": reworded}, before)
    assert not is_figures({"conditions": [{**told, "status": "Unknown"} for told in before["conditions"]]}, before)
    assert not is_figures({"desired": 6}, before)
