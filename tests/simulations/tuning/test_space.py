"""Is what is searched what was declared and asked for, and can each value of it be had?"""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.errors import BadInput
from policies.tunable import Tunable
from simulations.case import SimulationSettings
from simulations.peers.names import POLICIES
from simulations.sweep import variants_of, varied
from simulations.tuning.space import Knob, declared, possible, space_of, value_at, with_values

SETTINGS = SimulationSettings()
HEADROOM = "policy.scaling.headroom_ratio"


def named(*texts: str, policy: str = "foresail", only: bool = True) -> dict[str, Knob]:
    return {knob.key: knob for knob in space_of(policy, SETTINGS, None, texts, only)}


def test_declared_ranges_hold_the_defaults_and_are_possible_throughout() -> None:
    knobs = list(declared("foresail", SETTINGS))
    assert {"policy.scaling.headroom_ratio", "policy.stabilization.down_window_s", "forecast.demand_window_s"} <= {
        knob.key for knob in knobs
    }
    for knob in knobs:
        assert knob.holds(value_at(SETTINGS, knob.key)), knob
        assert knob.why
        for value in knob.samples:
            assert value_at(with_values(SETTINGS, {knob.key: value}), knob.key) == value


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "foresail"])
def test_a_rival_is_searched_from_end_to_end_of_its_sweep(policy: str) -> None:
    knobs = {knob.key: knob for knob in space_of(policy, SETTINGS, None, [], only_named=False)}
    for changes in variants_of(policy).values():
        settings = varied(SETTINGS, changes)
        for knob in knobs.values():
            value = value_at(settings, knob.key)
            assert knob.holds(value) or (value is None and not changes), (knob, value)
        for change in changes.split():
            assert change.partition("=")[0] in knobs
    assert possible(SETTINGS, {key: value_at(SETTINGS, key) for key in knobs})
    for knob in knobs.values():
        for end in (knob.samples[0], knob.samples[-1]):
            assert any(value_at(varied(SETTINGS, each), knob.key) == end for each in variants_of(policy).values())


def test_ranges_of_a_sweep_are_searched_as_what_they_count() -> None:
    knobs = {knob.key: knob for policy in ("keda-tokens", "phpa") for knob in declared(policy, SETTINGS)}
    assert str(knobs["keda_tokens.kv_of_tested"]) == "keda_tokens.kv_of_tested = False, True"
    assert str(knobs["keda_tokens.up_period_s"]) == "keda_tokens.up_period_s = 15 to 180 (log)"
    assert knobs["phpa.seasonal_periods"].whole
    assert not knobs["phpa.alpha"].whole


def test_values_that_contradict_each_other_are_impossible_together() -> None:
    up, down = "dynamo_latency.up_ratio", "dynamo_latency.down_ratio"
    assert possible(SETTINGS, {up: 0.3, down: 0.2})
    assert not possible(SETTINGS, {up: 0.3, down: 0.35})


def test_the_last_word_on_a_range_counts(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(f"{HEADROOM}: 0.1:0.2\npolicy.tick_s: [15, 30]\npolicy.scaling.burn_rate: 2:8:log\n")
    knobs = {
        knob.key: knob
        for knob in space_of("foresail", SETTINGS, space, ["policy.scaling.burn_rate=3:4"], only_named=False)
    }
    assert (knobs[HEADROOM].low, knobs[HEADROOM].high) == (0.1, 0.2)
    assert knobs["policy.tick_s"].choices == (15, 30)
    assert (knobs["policy.scaling.burn_rate"].low, knobs["policy.scaling.burn_rate"].log) == (3.0, False)
    assert "policy.stabilization.down_window_s" in knobs
    only = space_of("foresail", SETTINGS, space, [], only_named=True)
    assert [knob.key for knob in only] == [HEADROOM, "policy.tick_s", "policy.scaling.burn_rate"]


def test_numbers_are_tried_with_few_digits_and_never_outside() -> None:
    (knob,) = named(f"{HEADROOM}=0.12345:0.5").values()
    assert knob.shown(0.123456) == 0.12345
    assert knob.shown(0.234567) == 0.235
    (whole,) = named("policy.guardrails.up_replicas=1:9").values()
    assert whole.whole
    assert whole.shown(3.7) == 4


def test_settings_of_a_rival_are_searched_for_that_rival() -> None:
    assert list(named("hpa.target_ratio=0.4:1.0", policy="hpa")) == ["hpa.target_ratio"]
    with pytest.raises(BadInput, match="no setting of foresail"):
        named("hpa.target_ratio=0.4:1.0")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not of the form"),
        (HEADROOM, "not of the form"),
        (f"{HEADROOM}=", "not of the form"),
        (f"{HEADROOM}=0.1", "fewer than two values"),
        (f"{HEADROOM}=0.1,0.1", "twice"),
        (f"{HEADROOM}=0.5:0.1", "no range"),
        (f"{HEADROOM}=0.1:nan", "not numbers"),
        (f"{HEADROOM}=a:b", "not numbers"),
        (f"{HEADROOM}=0.1:0.5:lin", "no range"),
        (f"{HEADROOM}=0:0.5:log", "above 0"),
        (f"{HEADROOM}=0.1:1.5", "cannot be"),
        (f"{HEADROOM}=yes,no", "cannot be"),
        ("policy.scaling=1:2", "is a section"),
        ("policy.scaling.headroom=0:1", "no such setting"),
        ("policy.scaling.headroom_ratio.more=0:1", "no such setting"),
        ("policy.objective.attainment_ratio=0.9:0.99", "measured by"),
        ("policy.pools.a=1:2", "measured by"),
        ("fleet.gateway_timeout_s=1:2", "no setting of foresail"),
        ("seed=1:2", "no setting of foresail"),
        ("policy.tick_s=10:30", "whole multiple"),
    ],
)
def test_what_cannot_be_searched_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as refused:
        named(text)
    assert "--tune" in refused.value.where


def test_ticks_and_steps_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(BadInput, match="whole multiple"):
        named("policy.tick_s=15,20", "forecast.step_s=30,60")
    assert len(named("policy.tick_s=15,30", "forecast.step_s=60,120")) == 2


def test_nothing_but_what_is_named_needs_names() -> None:
    with pytest.raises(BadInput, match="no setting of static is named") as refused:
        named(policy="static")
    assert "--tune" in refused.value.remedy


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "", "policy.tick_s: 15\n"])
def test_a_file_that_is_no_space_is_refused(text: str, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(text)
    with pytest.raises(BadInput) as refused:
        space_of("foresail", SETTINGS, space, [], only_named=False)
    assert str(space) in refused.value.where
    with pytest.raises(BadInput, match="cannot be read"):
        space_of("foresail", SETTINGS, tmp_path / "nowhere.yaml", [], only_named=False)


@pytest.mark.parametrize(("low", "high", "log"), [(1, 1, False), (2, 1, False), (0, 1, True), (0, float("inf"), False)])
def test_a_range_with_nothing_in_it_is_no_tunable(low: float, high: float, log: bool) -> None:
    with pytest.raises(ValueError, match="range"):
        Tunable(low, high, why="none", log=log)
