"""Do the nets have the shape they were named after, and can their quantiles never cross?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forecasting.forecast import DEFAULT_LEVELS
from forecasting.net_spec import NetSpec, roughness_column
from forecasting.quantile_net import NetAnswer, QuantileLstm, ReferenceLstm, build_net
from tests.builders_forecasting import small_spec


def answer(net: nn.Module, spec: NetSpec, batch: int = 5, scale: float = 1.0) -> NetAnswer:
    draw = torch.Generator().manual_seed(1)
    context = torch.randn(batch, spec.tokens, spec.context_features, generator=draw) * scale
    said: NetAnswer = net(context, torch.randn(batch, spec.static_features, generator=draw) * scale)
    return said


def test_the_reference_stack_is_lstm_128_lstm_64_dense_1() -> None:
    spec = small_spec("reference_lstm", hidden=(128, 64))
    net = build_net(spec)
    assert isinstance(net, ReferenceLstm)
    assert [module.hidden_size for module in net.modules() if isinstance(module, nn.LSTM)] == [128, 64]
    assert (net.dense.in_features, net.dense.out_features) == (64, 1)
    # 4 gates of (inputs + units + 2) weights per unit, then the dense layer.
    expected = 4 * 128 * (2 + 128 + 2) + 4 * 64 * (128 + 64 + 2) + 65
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
    assert answer(net, spec).values.shape == (5, 1, 1)


def test_quantiles_never_cross_and_peaks_never_fall_whatever_the_weights() -> None:
    spec = small_spec(hidden=(8, 4))
    for seed in range(20):
        torch.manual_seed(seed)
        net = build_net(spec)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(5.0)
            values, peaks = answer(net, spec, scale=3.0)
        assert values.shape == peaks.shape == (5, len(spec.lead_steps), len(DEFAULT_LEVELS))
        assert (values.diff(dim=2) >= 0).all()
        assert (peaks.diff(dim=2) >= 0).all()
        assert (peaks.diff(dim=1) >= 0).all()
        assert (peaks >= values).all()


def test_an_unfitted_quantile_net_starts_near_the_last_value_with_a_band_as_wide_as_the_load_is_rough() -> None:
    spec = small_spec()
    torch.manual_seed(0)
    net = build_net(spec)
    context = torch.zeros(3, spec.tokens, spec.context_features)
    static = torch.zeros(3, spec.static_features)
    static[:, roughness_column(spec)] = torch.tensor([0.0, 0.05, 50.0])
    values = net(context, static).values
    width = values[..., -1] - values[..., 0]
    # Four times the root of a tenth of the usual change, which is taken to be at least 0.01 and at most 1.
    assert width.mean(dim=1).tolist() == pytest.approx([0.126, 0.283, 1.265], rel=0.1)
    assert values[1].abs().max() < 0.3


def test_every_weight_gets_a_gradient() -> None:
    spec = small_spec()
    net = build_net(spec)
    assert isinstance(net, QuantileLstm)
    values, peaks = answer(net, spec)
    (values.square().mean() + peaks.square().mean()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_same_seed_builds_the_same_net() -> None:
    nets = []
    for _ in range(2):
        torch.manual_seed(7)
        nets.append(build_net(small_spec()))
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)
