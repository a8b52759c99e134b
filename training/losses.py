"""How wrong is a net, in the units it answers in? Pinball and squared error that skip what was never recorded.

Importing this module imports torch (2 s): import it late.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pinball(
    quantiles: Tensor,
    target: Tensor,
    levels: Tensor,
    weight: Tensor,
    lead_weight: Tensor | None = None,
    level_weight: Tensor | None = None,
) -> Tensor:
    """Return the weighted mean pinball loss over windows, leads and levels.

    Pinball loss of a quantile q at level a is ``max(a (y - q), (a - 1) (y - q))`` (Koenker and Bassett, 1978): its
    expectation is smallest at the true quantile.

    Args:
        quantiles: ``[B, L, Q]``.
        target: ``[B, L]``; NaN where nothing was recorded, which costs nothing and teaches nothing.
        levels: ``[Q]``.
        weight: ``[B]``: what a window counts.
        lead_weight: ``[L]``: what a lead counts; by default all alike.
        level_weight: ``[Q]``: what a level counts, with a mean of 1; by default all alike.

    Returns:
        A scalar; 0 when no target of the batch was recorded.
    """
    known = torch.isfinite(target)
    gap = torch.where(known, target, 0.0).unsqueeze(2) - quantiles
    loss = torch.maximum(levels * gap, (levels - 1.0) * gap)
    per_lead = loss.mean(dim=2) if level_weight is None else (loss * level_weight).mean(dim=2)
    return _mean(per_lead, known, weight, lead_weight)


def squared_error(mean: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean squared error of ``mean`` against ``target``, both ``[B, L]``, NaN targets skipped."""
    known = torch.isfinite(target)
    return _mean((mean - torch.where(known, target, 0.0)).square(), known, weight)


def _mean(loss: Tensor, known: Tensor, weight: Tensor, lead_weight: Tensor | None = None) -> Tensor:
    counted = known * weight.unsqueeze(1)
    if lead_weight is not None:
        counted = counted * lead_weight
    return (loss * counted).sum() / counted.sum().clamp_min(1e-12)
