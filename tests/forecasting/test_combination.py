"""Is a combination never much worse than its best expert, however the load turns?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from forecasting.accuracy import pinball_losses
from forecasting.combination import expert_weights
from forecasting.forecast import DEFAULT_LEVELS
from forecasting.series import FloatArray

LEVELS = np.asarray(DEFAULT_LEVELS)


def centred(middle: FloatArray, width: float = 1.0) -> FloatArray:
    """Return quantiles ``[K, Q]`` of a band around ``middle``."""
    return np.asarray(middle[:, None] + width * (LEVELS - 0.5)[None, :])


def losses(experts: Sequence[FloatArray], actual: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the loss at each step of the combination as it was then, ``[K]``, and of the experts, ``[E, K]``."""
    told, steps = np.stack(experts), np.arange(len(actual))
    # One workload per step, which knows what had come by then.
    known = np.where(steps[:, None] < steps[None, :], actual[:, None], np.nan)[:, :, None]
    shown = np.repeat(told[:, :, :, None, None], len(steps), axis=3)
    awake = np.ones((len(experts), len(steps)), dtype=bool)
    weights = expert_weights(shown, known, LEVELS, awake)[:, :, 0]
    mixed = np.einsum("ek,ekq->kq", weights, told)
    own = np.stack([pinball_losses(actual, one, LEVELS).mean(axis=1) for one in experts])
    return pinball_losses(actual, mixed, LEVELS).mean(axis=1), own


def weights_of(
    told: FloatArray, actual: FloatArray, awake: Sequence[bool] | None = None, prior: FloatArray | None = None
) -> FloatArray:
    """Return the weights ``[E, M]`` of one workload, from ``[E, K, Q, M]`` and ``[K, M]``."""
    able = np.ones(len(told), dtype=bool) if awake is None else np.array(awake)
    return expert_weights(told[:, :, :, None], actual[:, None], LEVELS, able[:, None], prior)[:, 0]


@pytest.mark.parametrize("seed", range(3))
def test_an_expert_that_is_clearly_better_is_found_and_followed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    actual = rng.normal(50.0, 1.0, 288)
    mixed, own = losses([centred(actual + rng.normal(0, scale, 288)) for scale in (0.5, 4.0, 8.0)], actual)
    assert mixed.sum() < 1.02 * own[0].sum() + 10 * own[2].mean()
    assert mixed[-100:].mean() < 1.05 * own[0, -100:].mean()


@pytest.mark.parametrize(("block", "share"), [(12, 1.02), (24, 1.0), (48, 0.75), (96, 0.5)])
@pytest.mark.parametrize("seed", range(3))
def test_under_adversarial_switches_it_loses_little_more_than_the_best_expert(
    block: int, share: float, seed: int
) -> None:
    """Who is right changes just when it has been learned; the longer it stays, the less is lost to the change."""
    rng = np.random.default_rng(seed)
    actual = rng.normal(50.0, 1.0, 288)
    right = (np.arange(288) // block) % 2 == 0
    good, bad = rng.normal(0, 0.3, 288), 6.0 + rng.normal(0, 0.3, 288)
    experts = [centred(actual + np.where(right, good, bad)), centred(actual + np.where(right, bad, good))]
    mixed, own = losses(experts, actual)
    assert mixed.sum() < share * own.sum(axis=1).min()


def test_the_adversary_who_always_makes_the_favourite_wrong_gains_little() -> None:
    rng = np.random.default_rng(5)
    steps, favourite = 288, 0
    told: list[list[FloatArray]] = [[], []]
    actual: list[float] = []
    mixed = []
    for step in range(steps):
        now = [50.0 + (4.0 if expert == favourite else 0.0) + float(rng.normal(0, 0.2)) for expert in (0, 1)]
        both = [centred(np.array([value]))[0] for value in now]
        past = np.array(told)[:, :, :, None] if step else np.zeros((2, 0, len(LEVELS), 1))
        weights = weights_of(past, np.array(actual)[:, None])
        mixed.append(np.einsum("em,eq->q", weights, np.stack(both)))
        for expert in (0, 1):
            told[expert].append(both[expert])
        actual.append(50.0)
        favourite = int(weights[:, 0].argmax())
    loss = pinball_losses(np.array(actual), np.stack(mixed), LEVELS).mean()
    own = [pinball_losses(np.array(actual), np.array(one), LEVELS).mean() for one in told]
    # No weighting can do better against him than the square root of the steps: sqrt(ln 2 / 288) = 5 % of the losses.
    assert loss < 1.05 * min(own)


def test_the_unit_of_the_load_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    actual = rng.normal(50.0, 5.0, 100)
    told = np.stack([centred(actual + rng.normal(0, scale, 100)) for scale in (1.0, 2.0)])[..., None]
    small, large = (weights_of(told * unit, actual[:, None] * unit) for unit in (1.0, 1e6))
    np.testing.assert_allclose(small, large, rtol=1e-9)


def test_a_sleeper_keeps_its_weight_for_when_it_wakes_and_has_none_meanwhile() -> None:
    rng = np.random.default_rng(1)
    actual = rng.normal(50.0, 1.0, 60)
    told = np.stack([centred(actual + 1.0), centred(actual), centred(actual + 3.0)])[..., None]
    told[1] = np.nan
    asleep = weights_of(told, actual[:, None], awake=[True, False, True])
    assert asleep[1, 0] == 0.0
    assert asleep.sum() == pytest.approx(1.0)
    woken = weights_of(told, actual[:, None])
    assert woken[1, 0] == pytest.approx(1 / 3, abs=1e-9)  # what the others lost to each other is none of its business


def test_workloads_do_not_know_of_each_other_and_what_has_not_come_true_counts_for_nothing() -> None:
    rng = np.random.default_rng(2)
    actual = rng.normal(50.0, 1.0, (80, 2, 1))
    told = np.stack(
        [np.stack([centred(actual[:, w, 0] + shift) for w in (0, 1)], axis=2)[..., None] for shift in (0.0, 2.0)]
    )
    awake = np.ones((2, 2), dtype=bool)
    both = expert_weights(told, actual, LEVELS, awake)
    alone = expert_weights(told[:, :, :, :1], actual[:, :1], LEVELS, awake[:, :1])
    np.testing.assert_array_equal(both[:, :1], alone)
    unknown = actual.copy()
    unknown[40:] = np.nan
    wild = told.copy()
    wild[0, 40:] = 1e9
    np.testing.assert_array_equal(
        expert_weights(wild, unknown, LEVELS, awake), expert_weights(told[:, :40], actual[:40], LEVELS, awake)
    )


@pytest.mark.parametrize(("steps", "least", "most"), [(12, 0.6, 1.0), (280, 0.0, 0.1)])
def test_other_leads_count_until_a_lead_has_a_record_of_its_own(steps: int, least: float, most: float) -> None:
    """The first expert is the better one at five leads, the second at the sixth."""
    rng = np.random.default_rng(4)
    actual = rng.normal(50.0, 1.0, (steps, 6))
    off = np.where(np.arange(6) < 5, 0.0, 3.0)
    told = np.stack(
        [
            np.stack([centred(actual[:, m] + (off[m] if first else 3.0 - off[m])) for m in range(6)], axis=2)
            for first in (True, False)
        ]
    )
    weights = weights_of(told, actual)
    assert (weights[0, :5] > 0.6).all()
    assert least <= weights[0, 5] <= most


def test_one_poisoned_observation_does_not_decide_who_is_followed() -> None:
    rng = np.random.default_rng(6)
    actual = rng.normal(50.0, 1.0, 200)
    told = np.stack([centred(actual + rng.normal(0, scale, 200)) for scale in (0.5, 3.0)])[..., None]
    actual[60], told[0, 61] = 5e7, 5e7
    assert weights_of(told, actual[:, None])[0, 0] > 0.9


def test_without_any_record_all_count_as_they_are_given() -> None:
    nothing, unknown = np.zeros((4, 0, 7, 3)), np.zeros((0, 3))
    np.testing.assert_allclose(weights_of(nothing, unknown), 0.25)
    np.testing.assert_allclose(
        weights_of(nothing, unknown, prior=np.array([1.0, 1.0, 3.0, 3.0]))[:, 1], [1 / 8, 1 / 8, 3 / 8, 3 / 8]
    )
