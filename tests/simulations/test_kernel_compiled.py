"""Where does compiled code go, and does the simulator work where it can go nowhere?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.adapters.system_clock import SystemClock
from simulations import fleet_kernel
from simulations.kernel import compiled
from simulations.kernel.layout import PAUSED
from simulations.kernel.run import run
from tests.builders_fleet import a_batch, a_fleet

ROOT = Path(__file__).resolve().parents[2]


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


def compiled_before(place: Path, *ages_days: float) -> list[Path]:
    """Make a folder per age, as other sources left them."""
    folders = [place / f"kernel-{number:016x}" for number in range(len(ages_days))]
    for folder, age_days in zip(folders, ages_days, strict=True):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "run.1.nbc").write_bytes(b"compiled")
        used_at = SystemClock().now() - age_days * 86_400.0
        os.utime(folder, (used_at, used_at))
    return folders


@pytest.mark.parametrize(
    ("ages_days", "kept"),
    [
        ((10.0, 20.0), 2),  # three with the one in use
        ((10.0, 20.0, 30.0, 40.0), 2),
        ((0.1, 0.2, 0.3, 0.4, 10.0), 4),  # others may be running
        ((*(0.01 * number for number in range(1, 13)),), 7),
    ],
)
def test_results_of_sources_that_are_gone_are_removed_and_the_latest_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ages_days: tuple[float, ...], kept: int
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    folders = compiled_before(tmp_path, *ages_days)
    strangers = [tmp_path / "kernel-of-somebody-else", tmp_path / "simulations_1234"]
    for stranger in strangers:
        stranger.mkdir()
        os.utime(stranger, (0.0, 0.0))
    mine = compiled.cache_folder()
    assert mine is not None
    assert mine.exists()
    assert [folder.exists() for folder in folders] == [number < kept for number in range(len(folders))]
    assert all(stranger.exists() for stranger in strangers)


def test_nothing_is_removed_while_the_source_stays_the_same_and_its_folder_counts_as_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    mine = compiled.cache_folder()
    assert mine is not None
    os.utime(mine, (0.0, 0.0))
    folders = compiled_before(tmp_path, *[10.0] * 9)
    compiled.cache_folder.cache_clear()
    assert compiled.cache_folder() == mine
    assert mine.stat().st_mtime > 0.0
    assert all(folder.exists() for folder in folders)


def test_a_program_whose_folder_is_removed_goes_on_and_finds_what_it_compiled_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))

    def four_times(value: int) -> int:
        return 4 * value

    running, mine = compiled.entry(four_times), compiled.cache_folder()
    assert mine is not None
    shutil.rmtree(mine)
    assert running(3) == 12
    assert running(2.5) == 10.0  # compiled for another type
    assert compiled.entry(four_times)(5) == 20
    shutil.rmtree(mine)
    assert running(3) == 12


def test_a_function_is_compiled_once_whatever_the_width_of_its_numbers() -> None:
    def shifted(number: int, by: float, pool: Any) -> float:
        return number * 3 + by + pool

    inner: Any = compiled.called(shifted)

    def outer(small: Any, large: Any) -> float:
        total: float = inner(small, 1, 0) + inner(large, 2.5, 0) + inner(7, by=small, pool=0)
        return total

    assert compiled.entry(outer)(np.int32(2), np.int64(2**40)) == (6 + 1) + (3 * 2.0**40 + 2.5) + (21 + 2)
    assert len(inner.signatures) == 1


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


def test_with_numba_switched_off_the_same_code_runs_step_by_step_in_a_debugger() -> None:
    worlds = "a_world, a_hashed_world, a_staged_world"
    script = (
        f"from tests.builders_worlds import {worlds}\n"
        "from tests.simulations.test_kernel_against_plain import check_worlds\n"
        f"for draw in ({worlds}):\n    check_worlds(draw, [1])\n"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True, timeout=120)
