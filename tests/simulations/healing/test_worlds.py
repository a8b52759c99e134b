"""Worlds: equal seeds make equal ones, other seeds others, and in each kind what is to go wrong really does."""

from __future__ import annotations

import pytest

from simulations.fault_syntax import parse_fault
from simulations.healing.plans import CALM, KINDS, LONG, PLANS, world_of
from simulations.healing.runs import run_world
from simulations.healing.truths import TRUTHS


def test_every_failure_has_a_truth() -> None:
    assert set(TRUTHS) == set(PLANS)


def test_all_that_the_benchmark_has_to_show_is_there() -> None:
    codes = {kind.partition("-")[0] for kind in PLANS}
    assert codes >= {f"F{n}" for n in (*range(1, 16), 17, 19, 20)}
    assert len(CALM) * 25 >= 200


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_make_equal_worlds(kind: str) -> None:
    one, again, other = world_of(kind, 3), world_of(kind, 3), world_of(kind, 4)
    assert (one.ground, one.settings) == (again.ground, again.settings)
    assert one.settings.seed != other.settings.seed
    for spec in one.settings.faults:
        assert parse_fault(spec).at_s < one.ground.end_s


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in LONG])
def test_what_is_to_go_wrong_does(kind: str) -> None:
    run = run_world(kind, 1, "kubelet")
    assert run.struck
    assert run.requests > 0
    assert run.violations == 0
    assert run.command == f"foresail bench healing --faults {kind} --seed 1 --worlds 1"
