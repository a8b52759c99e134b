"""Is the load before we looked read as it was, whole, in pieces and after an outage?"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from controller.adapters.prometheus_history import HistoryReader, at_step, read_history
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.errors import ObservationError
from forecasting.series import LoadSeries
from policies.fleet import PoolKey
from tests.builders_metric_world import MODEL, POOL, WrittenWorld
from tests.builders_prometheus import RunningPrometheus, client_of, free_port

RATES = (10.0, 1000.0, 200.0)
"""Requests, prompt and output tokens per second of the written world."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningPrometheus, WrittenWorld]]:
    """Nine minutes of load, already over."""
    folder = tmp_path_factory.mktemp("prometheus")
    with RunningPrometheus(folder, "", "--web.enable-remote-write-receiver") as server:
        written = WrittenWorld(server, 10.0, 100, 20)
        written.wait(570.0)
        yield server, written
        written.close()


def a_reader(
    world: tuple[RunningPrometheus, WrittenWorld],
    step_s: float = 15.0,
    span_s: float = 540.0,
    longest_piece_s: float = math.inf,
    **changes: object,
) -> HistoryReader:
    server, written = world
    settings = PrometheusSettings.model_validate({"url": server.url, "attempts": 1, **changes})
    client = client_of(**settings.model_dump())
    return HistoryReader(client, settings, [PoolKey(MODEL, POOL)], written.now(), span_s, step_s, longest_piece_s)


def test_load_is_read_per_model_in_requests_and_tokens(world: tuple[RunningPrometheus, WrittenWorld]) -> None:
    load = read_history(a_reader(world))[MODEL]
    assert load.step_s == 15.0
    assert load.end_at == pytest.approx(world[1].now(), abs=1.0)
    settled = load.values[10:]
    assert np.isfinite(settled).all()
    np.testing.assert_allclose(settled, np.tile(RATES, (len(settled), 1)), rtol=0.1)
    np.testing.assert_allclose(settled.mean(axis=0), RATES, rtol=0.03)


def test_engines_alone_tell_the_same_load(world: tuple[RunningPrometheus, WrittenWorld]) -> None:
    """Matched by a label that the gateway's series lack."""
    load = read_history(a_reader(world, match={"model_name": MODEL}))[MODEL]
    np.testing.assert_allclose(load.values[10:].mean(axis=0), RATES, rtol=0.05)


def test_pieces_make_the_same_whole(world: tuple[RunningPrometheus, WrittenWorld]) -> None:
    whole = read_history(a_reader(world))[MODEL]
    reader = a_reader(world, longest_piece_s=120.0)
    shares: list[float] = []
    pieces = read_history(reader, on_piece=shares.append)[MODEL]
    assert len(shares) > 3
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    np.testing.assert_array_equal(pieces.values, whole.values)


def test_what_was_never_scraped_is_a_gap_and_not_zero(world: tuple[RunningPrometheus, WrittenWorld]) -> None:
    reader = a_reader(world, 60.0, 3600.0)
    load = read_history(reader)[MODEL]
    assert load.start_at >= world[1].epoch_at - 60.0
    assert reader.done_ratio == 1.0


def test_a_store_that_is_down_is_an_error_and_costs_nothing_that_was_read(
    world: tuple[RunningPrometheus, WrittenWorld],
) -> None:
    server, _ = world
    with pytest.raises(ObservationError, match="cannot be reached"):
        read_history(a_reader(world, url=f"http://127.0.0.1:{free_port()}"))
    reader = a_reader(world, longest_piece_s=120.0, query_timeout_s=0.5)
    while reader.done_ratio < 0.4:
        reader.advance()
    server.send(signal.SIGSTOP)
    try:
        partly = read_history(reader)[MODEL]
    finally:
        server.send(signal.SIGCONT)
    assert 0 < len(partly) < 36
    np.testing.assert_array_equal(read_history(reader)[MODEL].values, read_history(a_reader(world))[MODEL].values)


def test_longer_steps_are_held_over_the_shorter_ones_of_the_loop() -> None:
    load = LoadSeries(0.0, 60.0, np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    held = at_step({"m": load}, 15.0)["m"]
    assert held.values[:, 0].tolist() == [1.0] * 4 + [4.0] * 4
    assert held.end_at == load.end_at
    with pytest.raises(ValueError, match="cannot be cut"):
        at_step({"m": load}, 45.0)
