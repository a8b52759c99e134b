"""How the losses count what was recorded, and only that."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from forecasting import accuracy
from training.losses import pinball, squared_error

ONES = torch.ones(2)


def test_pinball_is_that_of_the_scores() -> None:
    rng = np.random.default_rng(0)
    quantiles, target = np.sort(rng.normal(size=(5, 3, 4)), axis=2), rng.normal(size=(5, 3))
    levels = np.array([0.1, 0.5, 0.9, 0.95])
    loss = pinball(
        torch.from_numpy(quantiles),
        torch.from_numpy(target),
        torch.from_numpy(levels),
        torch.ones(5, dtype=torch.float64),
    )
    assert float(loss) == pytest.approx(accuracy.pinball(target, quantiles, levels))


def test_a_target_that_was_not_recorded_costs_nothing_and_moves_nothing() -> None:
    quantiles = torch.zeros((2, 2, 1), requires_grad=True)
    target = torch.tensor([[1.0, math.nan], [math.nan, math.nan]])
    loss = pinball(quantiles, target, torch.tensor([0.9]), ONES)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.9)
    assert quantiles.grad is not None
    assert quantiles.grad.reshape(-1).tolist() == pytest.approx([-0.9, 0.0, 0.0, 0.0])


def test_nothing_recorded_at_all_is_no_loss() -> None:
    target = torch.full((2, 1), math.nan)
    assert float(pinball(torch.zeros((2, 1, 1)), target, torch.tensor([0.5]), ONES)) == 0.0
    assert float(squared_error(torch.zeros((2, 1)), target, ONES)) == 0.0


def test_a_window_counts_by_its_weight() -> None:
    mean, target = torch.zeros((2, 1)), torch.tensor([[1.0], [3.0]])
    assert float(squared_error(mean, target, torch.tensor([3.0, 1.0]))) == pytest.approx((3 * 1 + 1 * 9) / 4)


def test_pinball_is_smallest_at_the_quantile() -> None:
    sample = torch.from_numpy(np.random.default_rng(1).exponential(size=(4000, 1)))
    guesses = torch.linspace(0.5, 4.0, 71, dtype=torch.float64)
    weight = torch.ones(4000, dtype=torch.float64)
    losses = [float(pinball(g.expand(4000, 1, 1), sample, torch.tensor([0.9]), weight)) for g in guesses]
    best = float(guesses[int(np.argmin(losses))])
    # -ln(0.1) = 2.303; the sample's own quantile is off by about 0.05.
    assert best == pytest.approx(math.log(10), abs=0.15)


def test_leads_and_levels_count_by_their_weights() -> None:
    quantiles, levels = torch.zeros(1, 2, 2), torch.tensor([0.5, 0.9])
    target = torch.tensor([[1.0, 2.0]])
    # Lead 1 costs 0.5 and 0.9, lead 2 twice that.
    plain = pinball(quantiles, target, levels, torch.ones(1))
    assert float(plain) == pytest.approx((0.7 + 1.4) / 2)
    second = pinball(quantiles, target, levels, torch.ones(1), torch.tensor([0.0, 3.0]))
    assert float(second) == pytest.approx(1.4)
    upper = pinball(quantiles, target, levels, torch.ones(1), None, torch.tensor([0.0, 2.0]))
    assert float(upper) == pytest.approx((0.9 + 1.8) / 2)
