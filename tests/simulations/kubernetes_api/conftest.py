"""An API server for each test, on a clock that moves only when told to, and the official client on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simulations.clock import VirtualClock
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_kubernetes_api import Clients, clients


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1_780_000_000.0)


@pytest.fixture
def api(clock: VirtualClock) -> Iterator[RunningApi]:
    with running_api(clock=clock) as running:
        running.add_nodes(2)
        yield running


@pytest.fixture
def k8s(api: RunningApi) -> Iterator[Clients]:
    with clients(api) as official:
        yield official
