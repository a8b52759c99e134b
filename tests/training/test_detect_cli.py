"""Does ``foresail detect`` read what people have, print what it should, and refuse the rest in words?"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecasting.detection.detector import Detector
from foresail import main
from tests.builders_detection import daily, flat


def csv_of(path: Path, at: np.ndarray, values: np.ndarray) -> Path:
    stamps = np.datetime_as_string(at.astype("datetime64[s]"), unit="s")
    rows = [f"{stamp.replace('T', ' ')},{value:.3f}" for stamp, value in zip(stamps, values, strict=True)]
    path.write_text("timestamp,value\n" + "\n".join(rows) + "\n")
    return path


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main(["detect", *arguments, "--json"]) == 0
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


def refused(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    assert main(["detect", "--input", str(path), "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err


@pytest.fixture
def spiked(tmp_path: Path) -> Path:
    at, values = flat(1500)
    values[1200] += 40.0
    return csv_of(tmp_path / "cpu.csv", at, values)


def test_every_row_gets_a_score_under_its_own_timestamp(spiked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = found(capsys, "--input", str(spiked))
    lines = spiked.read_text().splitlines()[1:]
    assert [row["timestamp"] for row in rows] == [line.split(",")[0] for line in lines]
    assert max(rows, key=lambda row: float(str(row["score"])))["timestamp"] == lines[1200].split(",")[0]
    assert all(0.0 <= float(str(row["score"])) <= 1.0 for row in rows)
    assert set(rows[0]) == {"timestamp", "score"}


def test_scores_are_those_of_the_detector_step_by_step(spiked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at, _ = flat(1500)
    values = [float(line.split(",")[1]) for line in spiked.read_text().splitlines()[1:]]
    detector = Detector()
    expected = [detector.step(*row).score for row in zip(at.tolist(), values, strict=True)]
    assert [row["score"] for row in found(capsys, "--input", str(spiked))] == expected


def test_people_get_the_events_with_what_was_expected(spiked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--input", str(spiked), "--threshold", "0.7"]) == 0
    said = capsys.readouterr().out
    assert "2026-01-09 04:00:00" in said
    assert " to " in said
    assert "1,500 rows over 5.2 days, 1 events at scores from 0.7 on" in said


def test_other_formats_score_alike(spiked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = [row["score"] for row in found(capsys, "--input", str(spiked))]
    zipped = tmp_path / "cpu.csv.gz"
    zipped.write_bytes(gzip.compress(spiked.read_bytes()))
    at, _ = flat(1500)
    values = [float(line.split(",")[1]) for line in spiked.read_text().splitlines()[1:]]
    instants = pa.array((at * 1e9).astype("datetime64[ns]"))
    pq.write_table(pa.table({"value": values, "timestamp": instants}), tmp_path / "cpu.parquet")
    seconds = tmp_path / "seconds.csv"
    seconds.write_text("value,host,timestamp\n" + "".join(f"{v},a,{t:.0f}\n" for t, v in zip(at, values, strict=True)))
    for path in (zipped, tmp_path / "cpu.parquet", seconds):
        assert [row["score"] for row in found(capsys, "--input", str(path))] == expected
    assert found(capsys, "--input", str(seconds))[0]["timestamp"] == 1_767_571_200
    assert found(capsys, "--input", str(tmp_path / "cpu.parquet"))[0]["timestamp"] == "2026-01-05T00:00:00.000000"


def test_empty_cells_are_missing_and_rows_may_be_unsorted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv_of(tmp_path / "gaps.csv", *flat(400))
    lines = path.read_text().splitlines()
    for row, cell in ((50, ""), (60, "NaN"), (70, "null"), (80, "inf")):
        lines[row] = f"{lines[row].split(',')[0]},{cell}"
    lines[100], lines[101] = lines[101], lines[100]
    path.write_text("\n".join(lines) + "\n")
    rows = found(capsys, "--input", str(path))
    assert len(rows) == 400
    assert [rows[row - 1]["score"] for row in (50, 60, 70)] == [0.0] * 3
    assert float(str(rows[79]["score"])) > 0.99
    assert main(["detect", "--input", str(path)]) == 0
    said = capsys.readouterr().out
    assert "3 rows have no value" in said
    assert "1 rows are older than one before them" in said


def test_a_plot_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at, values = daily(30)
    values[6000] += 100.0
    path, plot = csv_of(tmp_path / "load.csv", at, values), tmp_path / "load.png"
    assert main(["detect", "--input", str(path), "--plot", str(plot)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert f"drawn in {plot}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("time,value\n1,2\n", "no column timestamp (it has 'time', 'value')"),
        ("a,b\n1,2\n", "no column timestamp and no column value"),
        ("timestamp,value\n2026-01-01 00:00:00,1\nyesterday,2\n", ":3 column timestamp: 'yesterday' is no instant"),
        (
            "timestamp,value\n2026-01-01 00:00:00,1\n2026-01-01 00:05:00,much\n",
            ":3 column value: 'much' is not a number",
        ),
        ("timestamp,value\n,1\n", ":2 column timestamp: an empty cell is no instant"),
        ("timestamp,value\n1,2,3\n", ":2"),
        ("", "the file is empty"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    content: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    said = refused(capsys, path)
    assert says in said
    assert "bad.csv" in said
    assert "->" in said


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such file" in refused(capsys, tmp_path / "none.csv")


@pytest.mark.parametrize("threshold", ["0", "1", "nan", "high"])
def test_a_threshold_outside_0_to_1_is_refused(threshold: str, spiked: Path) -> None:
    assert main(["detect", "--input", str(spiked), "--threshold", threshold]) == 2


def test_a_plot_that_cannot_be_written_is_refused_first(spiked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--input", str(spiked), "--plot", str(spiked / "x.png")]) == 2
    assert "--plot" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_short_files_have_scores_too(rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv_of(tmp_path / "short.csv", *flat(rows))
    assert [row["score"] for row in found(capsys, "--input", str(path))] == [0.0] * rows
    assert main(["detect", "--input", str(path), "--plot", str(tmp_path / "short.png")]) == 0
    assert f"{rows:,} rows" in capsys.readouterr().out


@pytest.mark.parametrize("zone", ["seconds", "text"])
def test_json_lines_have_seconds_or_text_and_are_told_as_given(
    zone: str, spiked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = [row["score"] for row in found(capsys, "--input", str(spiked))]
    at, _ = flat(1500)
    stamps = [str(t) for t in at.astype("datetime64[s]")] if zone == "text" else [int(t) for t in at]
    values = [float(line.split(",")[1]) for line in spiked.read_text().splitlines()[1:]]
    path = tmp_path / "cpu.jsonl"
    lines = [json.dumps({"timestamp": t, "value": v, "host": "a"}) for t, v in zip(stamps, values, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    rows = found(capsys, "--input", str(path))
    assert [row["score"] for row in rows] == expected
    assert [row["timestamp"] for row in rows] == stamps


@pytest.mark.parametrize("at", ["1700000000000", "1e300", "-1e300"])
def test_milliseconds_are_not_taken_for_seconds(at: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ms.csv"
    path.write_text(f"timestamp,value\n1700000000,1\n{at},2\n")
    said = refused(capsys, path)
    assert "ms.csv:3 column timestamp" in said
    assert "not milliseconds" in said


def test_a_cell_that_is_the_rest_of_the_file_is_not_printed_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "quote.csv"
    path.write_text('timestamp,value\n1700000000,"3\n' + "1700000300,4\n" * 1000)
    assert len(refused(capsys, path)) < 400


@pytest.mark.parametrize("content", ["timestamp;value\n1;2\n", "timestamp\tvalue\n1\t2\n"])
def test_other_separators_than_commas_are_told(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "excel.csv"
    path.write_text(content)
    assert "separate cells by commas" in refused(capsys, path)


def test_a_plot_never_replaces_what_is_read(spiked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = tmp_path / "cpu.png"
    spiked.rename(read)
    content = read.read_bytes()
    assert main(["detect", "--input", str(read), "--plot", str(tmp_path / "." / "cpu.png")]) == 2
    assert "would replace the file that is read" in capsys.readouterr().err
    assert read.read_bytes() == content


def test_a_plot_is_a_png_and_named_like_one(spiked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--input", str(spiked), "--plot", str(spiked.with_suffix(".svg"))]) == 2
    assert "ends in .png" in capsys.readouterr().err


def test_the_largest_numbers_that_there_are_can_be_drawn(tmp_path: Path) -> None:
    at, values = flat(300)
    values[::2], values[1::2] = 1.7e308, -1.7e308
    path, plot = csv_of(tmp_path / "huge.csv", at, values), tmp_path / "huge.png"
    assert main(["detect", "--input", str(path), "--plot", str(plot)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
