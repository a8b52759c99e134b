"""Is a place that cannot be written refused before anything is computed?"""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controller.errors import BadInput
from simulations.output_places import alone_in, check_file, check_folder


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(BadInput, match="is not a folder"):
            check_folder(folder)


def test_checking_a_folder_leaves_nothing(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    check_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_commands_that_begin_at_once_with_one_folder_do_not_refuse_each_other(tmp_path: Path) -> None:
    def checked_often(_: int) -> None:
        for _ in range(100):
            check_folder(tmp_path / "a" / "b")

    with ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(checked_often, range(4)))) == 4


def test_one_command_at_a_time_replaces_the_files_of_a_folder(tmp_path: Path) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        with alone_in(tmp_path), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(other)


@pytest.mark.parametrize("folder", [Path("/proc/foresail/deeper"), Path("/proc"), Path("x" * 300)])
def test_a_folder_that_only_the_system_refuses_is_refused(folder: Path) -> None:
    """Root may write everywhere by the mode of the folder, and still cannot."""
    with pytest.raises(BadInput, match="cannot be written") as refusal:
        check_folder(folder)
    assert str(folder) in refusal.value.where


def test_results_replace_files_only(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(BadInput, match=r"report\.html is a folder"):
        check_folder(tmp_path, files=("report.html",))


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("absent/f.parquet", "no such folder"),
        (".", "is a folder"),
        ("/proc/f.parquet", "cannot be written"),
        ("/dev/null", "not an ordinary file"),
        ("x" * 300, "cannot be written"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, path: str, what: str) -> None:
    with pytest.raises(BadInput, match=what) as refusal:
        check_file(tmp_path / path, "--forecasts")
    assert "--forecasts" in refusal.value.where


def test_a_file_that_can_be_written_is_not_made_yet(tmp_path: Path) -> None:
    check_file(tmp_path / "f.parquet", "--forecasts")
    assert list(tmp_path.iterdir()) == []
