"""Which nets there are: the reference LSTM stack and an LSTM that answers quantiles of every lead and of the peak.

Importing this module imports torch (2 s): import it late.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from forecasting.net_spec import NetSpec, roughness_column

# Spread of the quantiles of a net that has learned nothing yet, in the unit of the head.
_FIRST_SPREAD = 4.0
# Usual change from step to step, on a logarithm: of a load that hardly moves, of most, of one that is all noise.
_LEAST_ROUGHNESS, _USUAL_ROUGHNESS, _MOST_ROUGHNESS = 0.01, 0.1, 1.0
_LEAST_OUTPUTS = 16


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

    The last state has seen the newest step, so short leads are answered from it and not from what a decoder remembers.
    The heads answer for all leads and levels at once. Quantiles cannot cross: the one nearest the median is free, the
    others are softplus steps away from it. These are in a unit that grows with the root of how rough the load is:
    smooth and noisy workloads share one net, and one that was never seen gets a width that about fits it. A peak is at
    least the value at its lead and the peak at the lead before.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.roughness = roughness_column(spec)
        layers: list[nn.Module] = []
        width = spec.context_features
        for units in spec.hidden:
            layers.append(nn.LSTM(width, units, batch_first=True))
            width = units
        self.encoder = nn.ModuleList(layers)
        self.values_head = QuantileHead(width + spec.static_features, spec)
        self.peaks_head = QuantileHead(width + spec.static_features, spec)

    def forward(self, context: Tensor, static: Tensor) -> NetAnswer:
        """Answer for ``context`` (``[B, T, F]``) and ``static`` (``[B, S]``)."""
        sequence = context
        for layer in self.encoder:
            sequence, _ = layer(sequence)
        seen = torch.cat([sequence[:, -1], static], dim=1)
        rough = static[:, self.roughness].clamp(_LEAST_ROUGHNESS, _MOST_ROUGHNESS)
        unit = torch.sqrt(_USUAL_ROUGHNESS * rough).view(-1, 1, 1)
        values = self.values_head(seen, unit)
        peaks = torch.cummax(torch.maximum(self.peaks_head(seen, unit), values), dim=1).values
        return NetAnswer(values, peaks)


class QuantileHead(nn.Module):
    """Quantiles of every lead, ascending along the levels: a small net, beside a straight line for the middle.

    The line carries what is nearly linear on logarithms (how the load went on a day ago); it is learned from few
    examples. Both start as the last value with a narrow band around it.
    """

    def __init__(self, width: int, spec: NetSpec) -> None:
        super().__init__()
        self.leads, self.levels = len(spec.lead_steps), len(spec.levels)
        self.middle = min(range(self.levels), key=lambda place: abs(spec.levels[place] - 0.5))
        self.inner = nn.Linear(width, spec.head)
        self.outer = nn.Linear(spec.head, self.leads * self.levels)
        self.line = nn.Linear(width, self.leads, bias=False)
        first = torch.full((self.leads, self.levels), _inverse_softplus(_FIRST_SPREAD / max(self.levels - 1, 1)))
        first[:, self.middle] = 0.0
        with torch.no_grad():
            self.outer.weight.mul_(0.1)
            self.outer.bias.copy_(first.reshape(-1))
            self.line.weight.zero_()

    def forward(self, seen: Tensor, unit: Tensor) -> Tensor:
        """Answer ``[B, L, Q]`` for ``seen`` (``[B, width]``); levels are apart in ``unit`` (``[B, 1, 1]``)."""
        inner = nn.functional.gelu(_wide(seen, self.inner.weight, self.inner.bias))
        raw = _wide(inner, self.outer.weight, self.outer.bias).reshape(-1, self.leads, self.levels)
        middle = raw[..., self.middle : self.middle + 1] + _wide(seen, self.line.weight).unsqueeze(2)
        above = middle + unit * torch.cumsum(nn.functional.softplus(raw[..., self.middle + 1 :]), dim=2)
        below = nn.functional.softplus(raw[..., : self.middle])
        # Summed from the middle outwards, so that each level is one step under the next.
        under = middle - unit * torch.flip(torch.cumsum(torch.flip(below, (2,)), dim=2), (2,))
        return torch.cat([under, middle, above], dim=2)


def _wide(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the linear map of ``inputs``, worked out with ``_LEAST_OUTPUTS`` outputs or more.

    Products with fewer go through routines that round a row by its place in the batch.
    """
    outputs = len(weight)
    missing = max(0, _LEAST_OUTPUTS - outputs)
    weight = nn.functional.pad(weight, (0, 0, 0, missing))
    bias = None if bias is None else nn.functional.pad(bias, (0, missing))
    return nn.functional.linear(inputs, weight, bias)[:, :outputs]


def build_net(spec: NetSpec) -> ReferenceLstm | QuantileLstm:
    """Return an unfitted net; seed torch before for reproducible first weights."""
    return ReferenceLstm(spec) if spec.kind == "reference_lstm" else QuantileLstm(spec)


def _inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))
