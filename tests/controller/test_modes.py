"""Which mode holds for which class of action on which workload?"""

from __future__ import annotations

import pytest

from controller.modes import ActionClass, Mode, ModeSettings, WorkloadModes

MODES = ModeSettings(
    scaling=Mode.AUTO,
    workloads={
        "llama": WorkloadModes(scaling=Mode.APPROVE, healing=Mode.RECOMMEND),
        "llama/tuned": WorkloadModes(healing=Mode.OBSERVE, traffic=Mode.APPROVE),
    },
)


@pytest.mark.parametrize(
    ("action_class", "model", "mode"),
    [
        (ActionClass.SCALING, "qwen", Mode.AUTO),
        (ActionClass.SCALING, "llama", Mode.APPROVE),
        (ActionClass.SCALING, "llama/tuned", Mode.AUTO),
        (ActionClass.TRAFFIC, "llama", Mode.OBSERVE),
        (ActionClass.HEALING, "llama", Mode.RECOMMEND),
    ],
)
def test_a_workload_has_the_modes_of_the_fleet_but_for_its_own(
    action_class: ActionClass, model: str, mode: Mode
) -> None:
    assert MODES.of(action_class, model) is mode


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        ("llama", True),
        ("llama prefill", True),
        ("llama/a100/unified", True),
        ("llama/a100/unified/r0", True),
        ("llama/tuned/a100/unified/r0", False),
        ("llamas", False),
        ("fleet", False),
    ],
)
def test_humans_are_paged_by_the_mode_of_the_workload_that_it_is_about(subject: str, told: bool) -> None:
    assert MODES.tells(subject) is told


def test_everything_that_asks_is_named() -> None:
    assert list(MODES.asking()) == [("workloads", "llama", "scaling"), ("workloads", "llama/tuned", "traffic")]
    assert list(ModeSettings(traffic=Mode.APPROVE).asking()) == [("traffic",)]
    assert list(ModeSettings.all_auto().asking()) == []
