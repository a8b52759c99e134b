"""Is what no live stack could run with refused by the option's name?"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from controller.errors import BadInput
from simulations.live.live_options import LiveOptions, PoolChoice

POOLS = (PoolChoice.parse("a=emulated-small"),)


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["lead_time_s", "scale", "start_s", "duration_s", "speed", "scrape_interval_s"])
def test_what_is_no_finite_number_is_refused_by_the_options_name(name: str, number: float) -> None:
    with pytest.raises(BadInput) as raised:
        LiveOptions(Path("out"), POOLS, **{name: number})
    option = {"start_s": "--start", "duration_s": "--duration"}.get(name, f"--{name.replace('_', '-')}")
    assert raised.value.where == f"{option} {number}"
    assert LiveOptions(Path("out"), POOLS, **{name: 2.0})
