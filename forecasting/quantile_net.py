"""Which nets there are: the reference LSTM stack and an LSTM that answers quantiles of every lead and of the peak.

Importing this module imports torch (2 s): import it late.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from forecasting.features import NetSpec

# Spread of the quantiles of a net that has learned nothing yet: e^(+-0.1) around the last level.
_FIRST_SPREAD = 0.2


class NetAnswer(NamedTuple):
    """What a net answers, in the ``delta`` space of ``WindowTensors``.

    Attributes:
        values: ``[B, L, Q]`` at each lead, non-decreasing along Q (``[B, 1, 1]``: the mean, for a reference stack).
        peaks: ``[B, L, Q]`` of the running maximum, non-decreasing along Q and L and never under ``values``
            (the mean again, for a reference stack).
    """

    values: Tensor
    peaks: Tensor


class ReferenceLstm(nn.Module):
    """LSTM(128) -> LSTM(64) -> Dense(1): the change of the mean load at one lead, fitted with squared error."""

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        first, second = spec.hidden
        self.first = nn.LSTM(spec.context_features, first, batch_first=True)
        self.second = nn.LSTM(first, second, batch_first=True)
        self.dense = nn.Linear(second, 1)

    def forward(self, context: Tensor, static: Tensor) -> NetAnswer:
        """Answer for ``context`` (``[B, T, 2]``); ``static`` is not looked at."""
        sequence, _ = self.first(context)
        _, (state, _) = self.second(sequence)
        answer = self.dense(state[-1]).unsqueeze(1)
        return NetAnswer(answer, answer)


class QuantileLstm(nn.Module):
    """LSTM over the context; its last state and the static features feed one head for values and one for peaks.

    The heads answer for all leads and levels at once. Quantiles cannot cross: the lowest is free, the others add
    softplus steps to it. A peak is at least the value at its lead and the peak at the lead before.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.leads, self.levels = len(spec.lead_steps), len(spec.levels)
        layers: list[nn.Module] = []
        width = spec.context_features
        for units in spec.hidden:
            layers.append(nn.LSTM(width, units, batch_first=True))
            width = units
        self.encoder = nn.ModuleList(layers)
        self.values_head = self._head(width + spec.static_features, spec)
        self.peaks_head = self._head(width + spec.static_features, spec)

    def forward(self, context: Tensor, static: Tensor) -> NetAnswer:
        """Answer for ``context`` (``[B, T, 2]``) and ``static`` (``[B, S]``)."""
        sequence = context
        for layer in self.encoder:
            sequence, _ = layer(sequence)
        seen = torch.cat([sequence[:, -1], static], dim=1)
        values = self._ascending(self.values_head(seen))
        raw = self._ascending(self.peaks_head(seen))
        peaks = torch.cummax(torch.maximum(raw, values), dim=1).values
        return NetAnswer(values, peaks)

    def _ascending(self, raw: Tensor) -> Tensor:
        raw = raw.view(-1, self.leads, self.levels)
        steps = torch.cat([raw[..., :1], nn.functional.softplus(raw[..., 1:])], dim=2)
        return torch.cumsum(steps, dim=2)

    def _head(self, width: int, spec: NetSpec) -> nn.Sequential:
        """Return a small net that starts as the last value with a narrow band around it."""
        last = nn.Linear(spec.head, self.leads * self.levels)
        first = torch.full((self.leads, self.levels), _inverse_softplus(_FIRST_SPREAD / max(self.levels - 1, 1)))
        first[:, 0] = -_FIRST_SPREAD / 2
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.copy_(first.reshape(-1))
        return nn.Sequential(nn.Linear(width, spec.head), nn.GELU(), last)


def build_net(spec: NetSpec) -> ReferenceLstm | QuantileLstm:
    """Return an unfitted net; seed torch before for reproducible first weights."""
    return ReferenceLstm(spec) if spec.kind == "reference_lstm" else QuantileLstm(spec)


def _inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))
