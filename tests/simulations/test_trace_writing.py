"""Does a written trace hold the same requests, appear whole or not at all, and leave room on the disk?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from controller.errors import BadInput
from simulations.block_hashes import BlockHashes
from simulations.trace import RequestBatch
from simulations.trace_files import open_trace
from simulations.trace_writing import write_trace
from simulations.workload import DrawnTrace
from tests.builders_traces import ListedTrace, all_requests, drawn_trace


def test_a_drawn_trace_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    trace = drawn_trace([50.0] * 20, cv=2.0)
    path = tmp_path / "t.parquet"
    assert write_trace(trace, path) == len(all_requests(trace))
    one, other = all_requests(trace), all_requests(open_trace(path))
    assert np.array_equal(one.arrival_s, other.arrival_s)
    assert np.array_equal(one.prompt_tokens, other.prompt_tokens)
    assert np.array_equal(one.output_tokens, other.output_tokens)
    assert [each.name for each in tmp_path.iterdir()] == ["t.parquet"]


def test_it_says_where_it_comes_from_and_when_it_begins(tmp_path: Path) -> None:
    monday = DrawnTrace("drawn", "made for a test", True, drawn_trace([5.0] * 5).clients, 0, curves_begin_at=1.7e9)
    write_trace(monday, tmp_path / "t.parquet")
    read = open_trace(tmp_path / "t.parquet")
    assert read.begins_at == 1.7e9
    assert read.generated
    assert "made for a test" in read.describe()
    recorded = ListedTrace(all_requests(monday))
    write_trace(recorded, tmp_path / "r.parquet")
    assert not open_trace(tmp_path / "r.parquet").generated


def test_models_sessions_and_prefixes_come_back(tmp_path: Path) -> None:
    rows = [(2**63 + 1, 5), (), (7,)]
    batch = RequestBatch(np.arange(3.0), np.full(3, 9), np.full(3, 8), np.array([1, 0, 1]), ("a", "b"),
                         np.array([2**61, -1, 5]), BlockHashes.of(rows))  # fmt: skip
    write_trace(ListedTrace(batch, size=2), tmp_path / "t.parquet")
    read = all_requests(open_trace(tmp_path / "t.parquet"))
    assert read.session is not None
    assert read.session.tolist() == [2**61, -1, 5]
    assert list(read.block_hashes or ()) == rows
    assert read.model is not None
    assert [read.models[code] for code in read.model] == ["b", "a", "b"]


def test_a_request_without_a_model_beside_others_with_one_comes_back_without(tmp_path: Path) -> None:
    rows = np.arange(5)
    batch = RequestBatch(rows, rows + 1, rows + 1, np.array([1, 0, 2, 1, 1]), ("a", "", "b"))
    write_trace(ListedTrace(batch), tmp_path / "out.parquet")
    again = all_requests(open_trace(tmp_path / "out.parquet"))
    assert again.model is not None
    assert [again.models[code] for code in again.model] == ["", "a", "b", "", ""]
    assert pq.read_table(tmp_path / "out.parquet").column("model").null_count == 3


def test_a_trace_longer_than_the_disk_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    years = drawn_trace([1e5] * 1000, step_s=86_400.0)
    with pytest.raises(BadInput, match="8,640,000,000,000 requests take about") as caught:
        write_trace(years, tmp_path / "t.parquet")
    assert "free" in caught.value.what
    assert "TB" in caught.value.what
    assert list(tmp_path.iterdir()) == []


def test_a_rate_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"1e\+09 requests/s"):
        write_trace(drawn_trace([1e9] * 5), tmp_path / "t.parquet")


def test_what_room_there_is_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = (256 << 20) + 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(BadInput, match="take about"):
        write_trace(drawn_trace([50.0] * 20), tmp_path / "t.parquet")
    Usage.free += 10_000_000
    write_trace(drawn_trace([50.0] * 20), tmp_path / "t.parquet")


class _Failing(ListedTrace):
    """Fails in the middle, but only once it is written and not when it is counted."""

    def __init__(self, whole: RequestBatch, error: BaseException) -> None:
        super().__init__(whole, size=10)
        self.error, self.passes = error, 0

    def batches(self) -> Iterator[RequestBatch]:
        self.passes += 1
        for number, batch in enumerate(super().batches()):
            if self.passes == 2 and number == 20:
                raise self.error
            yield batch


@pytest.mark.parametrize(
    "error", [BadInput("row", "file"), KeyboardInterrupt(), OSError(28, "No space left on device")]
)
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "t.parquet"
    path.write_text("precious")
    whole = all_requests(drawn_trace([50.0] * 20))
    expected: Any = BadInput if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_trace(_Failing(whole, error), path)
    assert path.read_text() == "precious"
    assert [each.name for each in tmp_path.iterdir()] == ["t.parquet"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "t.parquet"):
        with pytest.raises(BadInput, match="folder"):
            write_trace(drawn_trace([5.0] * 5), path)


def test_notes_that_are_damaged_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_trace(drawn_trace([5.0] * 5), path)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"foresail.trace": b'{"begins_at": 1e300}'}), path)
    with pytest.raises(BadInput, match="notes"):
        open_trace(path)
