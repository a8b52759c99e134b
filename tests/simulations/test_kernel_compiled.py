"""Where does compiled code go, and does the simulator work where it can go nowhere?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from simulations import fleet_kernel
from simulations.kernel import compiled
from simulations.kernel.layout import PAUSED
from simulations.kernel.run import run
from tests.builders_fleet import a_batch, a_fleet


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    compiled.cache_folder.cache_clear()
    yield
    compiled.cache_folder.cache_clear()


def test_a_folder_that_is_given_is_used_and_named_after_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert compiled.cache_folder() == tmp_path / f"kernel-{compiled.kernel_digest()}"


def test_without_a_folder_the_simulator_is_compiled_for_the_time_being(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("no folder can be made below a file")
    monkeypatch.setattr(compiled, "_places", lambda: iter([nowhere / "a", nowhere / "b"]))
    assert compiled.cache_folder() is None

    def twice(value: int) -> int:
        return 2 * value

    assert compiled.entry(twice)(21) == 42


def test_the_next_place_is_taken_when_the_first_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    monkeypatch.setattr(compiled, "_places", lambda: iter([nowhere / "a", tmp_path / "b"]))
    assert compiled.cache_folder() == tmp_path / "b" / f"kernel-{compiled.kernel_digest()}"


def test_what_was_compiled_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))

    def thrice(value: int) -> int:
        return 3 * value

    assert compiled.entry(thrice)(3) == 9
    again = compiled.entry(thrice)
    assert again(4) == 12
    assert sum(again.stats.cache_hits.values()) == 1  # type: ignore[attr-defined]


def test_a_long_stretch_is_simulated_in_calls_that_python_can_interrupt_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def interrupted(*arguments: object) -> int:
        calls.append(run(*arguments))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return calls[-1]

    monkeypatch.setattr(fleet_kernel, "_EVENTS_PER_CALL", 100)
    monkeypatch.setattr(fleet_kernel, "run", interrupted)
    fleet = a_fleet(batches=[a_batch(np.arange(1_000) * 0.1)])
    with pytest.raises(KeyboardInterrupt):
        fleet.advance(1_000.0)
    assert calls[-1] == PAUSED
    assert 50 < fleet.tallies.requests < 1_000
    monkeypatch.undo()
    fleet.finish()
    assert fleet.tallies.completed == 1_000
