"""The witness tells what is true of a victim, whatever its policy believed: the naive rule in worlds that fool it."""

from __future__ import annotations

import math

from simulations.case import prepare
from simulations.healing.plans import world_of
from simulations.healing.rivals import policy_for
from simulations.healing.runs import run_world
from simulations.healing.witness import Deed, Witness
from simulations.runner import replay


def test_the_restart_of_what_hangs_is_right_and_that_of_a_working_engine_is_not() -> None:
    assert run_world("F1", 0, "naive").verdict.right
    fooled = run_world("F13-exporter", 0, "naive").verdict
    assert fooled.wronged > 0
    assert "which was healthy" in fooled.wrong[0]


def test_a_hang_that_shows_no_running_requests_escapes_the_naive_rule() -> None:
    verdict = run_world("F1-zero", 0, "naive").verdict
    assert math.isnan(verdict.detected_s)
    assert not verdict.remedied


def test_every_tick_is_noted_with_who_is_well_in_truth() -> None:
    world = world_of("F1", 0)
    case = prepare(world.trace, world.settings)
    witness = Witness(policy_for("kubelet", case.policy))
    result = replay(case, "kubelet", on_tick=witness.see, started=(witness, case.first))
    struck_s, pools = world.ground.struck_s, world.ground.pools
    just_before = [moment for moment in witness.moments if moment.at_s < struck_s][-1]
    just_after = next(moment for moment in witness.moments if moment.at_s >= struck_s)
    assert sum(just_before.healthy.values()) - sum(just_after.healthy.values()) == 1
    assert set(just_after.healthy) == set(pools)
    (hung,) = result.fleet.struck
    assert hung.startswith(world.pool)
    assert witness.moments[-1].lost <= result.scorecard.failed + result.scorecard.dropped_in_flight


def test_a_deed_reads_as_a_sentence() -> None:
    assert str(Deed(61.0, "restart", "a100", "a100-1")) == "restart a100-1, which was healthy, at 61 s"
    assert str(Deed(61.0, "roll back", "a100", detail="1")) == "roll back a100, at 61 s"
