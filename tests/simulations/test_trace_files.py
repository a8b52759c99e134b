"""Is every format read as what it means, and every bad file refused with the place of what is wrong?"""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from controller.errors import BadInput
from simulations.trace_files import open_trace
from tests.builders_traces import all_requests, write_parquet, write_text

FORESAIL = ("arrival_s,prompt_tokens,output_tokens", "0.5,10,1", "0.5,20,2", "7.25,30,3")
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    "2023-11-16 18:15:46.6805900,374,44",
    "2023-11-16 18:15:50.9951690,396,109",
    "2023-11-16 18:15:51,7,1",
)
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
    "5,ChatGPT,472,18,490,Conversation log",
    "45,GPT-4,1087,0,1087,API log",
    "118,GPT-4,417,276,693,API log",
)
MOONCAKE = (
    '{"timestamp": 1000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}',
    '{"timestamp": 4500, "input_length": 7322, "output_length": 490, "hash_ids": [0, 14]}',
)


def zstd_compress(plain: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(plain)
    return bytes(sink.getvalue().to_pybytes())


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "zstd": zstd_compress,
}


def refusal(path: Path, **options: object) -> BadInput:
    """What reading the whole file says."""
    with pytest.raises(BadInput) as caught:
        list(open_trace(path, **options).batches())  # type: ignore[arg-type]
    assert caught.value.what
    assert caught.value.where
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_foresail_csv_is_read_whatever_its_compression_and_name(tmp_path: Path, compression: str) -> None:
    path = write_text(tmp_path / "trace.dat", *FORESAIL, compress=COMPRESSIONS[compression])
    read = all_requests(open_trace(path))
    assert read.arrival_s.tolist() == [0.5, 0.5, 7.25]
    assert read.prompt_tokens.tolist() == [10, 20, 30]
    assert read.output_tokens.tolist() == [1, 2, 3]
    assert read.model is read.session is read.block_hashes is None


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_parquet_trace_is_read_even_when_compressed_as_a_whole(tmp_path: Path, compression: str) -> None:
    path = write_parquet(
        tmp_path / "trace", arrival_s=[0.0, 2.0], prompt_tokens=[5, 6], output_tokens=[1, 2], block_hashes=[[1, 2], [1]]
    )
    path.write_bytes(COMPRESSIONS[compression](path.read_bytes()))
    read = all_requests(open_trace(path))
    assert read.arrival_s.tolist() == [0.0, 2.0]
    assert list(read.block_hashes or ()) == [(1, 2), (1,)]


def test_optional_columns_are_read_from_csv(tmp_path: Path) -> None:
    header = "arrival_s,prompt_tokens,output_tokens,model,session,block_hashes"
    rows = ("0,1,1,llama,alice,1 2", '1,1,1,qwen,,"[1, 3]"', "2,1,1,llama,alice,")
    read = all_requests(open_trace(write_text(tmp_path / "t.csv", header, *rows)))
    assert read.model is not None
    assert read.session is not None
    assert [read.models[code] for code in read.model] == ["llama", "qwen", "llama"]
    assert read.session[0] == read.session[2] >= 0
    assert read.session[1] == -1
    assert list(read.block_hashes or ()) == [(1, 2), (1, 3), ()]


def test_azure_instants_become_seconds_since_the_first(tmp_path: Path) -> None:
    read = all_requests(open_trace(write_text(tmp_path / "a.csv", *AZURE)))
    assert read.arrival_s == pytest.approx([0.0, 4.314579, 4.31941], abs=1e-9)  # whole 100 ns are kept
    assert read.prompt_tokens.tolist() == [374, 396, 7]


def test_azure_instants_with_a_zone_are_read_from_csv_and_parquet(tmp_path: Path) -> None:
    texts = ["2024-05-10 00:00:00.009930+00:00", "2024-05-10 00:00:01+00:00"]
    rows = [f"{text},3,4" for text in texts]
    columns = {"ContextTokens": [3, 3], "GeneratedTokens": [4, 4]}
    files = (
        write_text(tmp_path / "a.csv", AZURE[0], *rows),
        write_parquet(tmp_path / "texts.parquet", TIMESTAMP=texts, **columns),
        write_parquet(tmp_path / "stamps.parquet", TIMESTAMP=np.array([9930, 10**6], "datetime64[us]"), **columns),
    )
    for path in files:
        assert all_requests(open_trace(path)).arrival_s == pytest.approx([0.0, 0.99007], abs=1e-9)


def test_failed_burstgpt_requests_are_left_out_and_counted(tmp_path: Path) -> None:
    trace = open_trace(write_text(tmp_path / "b.csv", *BURSTGPT))
    read = all_requests(trace)
    assert read.arrival_s.tolist() == [0.0, 113.0]
    assert read.output_tokens.tolist() == [18, 276]
    assert "1 failed requests" in trace.describe()


def test_only_the_requests_of_one_model_are_kept(tmp_path: Path) -> None:
    path = write_text(tmp_path / "b.csv", *BURSTGPT)
    assert all_requests(open_trace(path, model="GPT-4")).arrival_s.tolist() == [113.0]
    assert "ChatGPT, GPT-4" in refusal(path, model="nobody").remedy


def test_a_model_cannot_be_asked_of_a_file_that_names_none(tmp_path: Path) -> None:
    assert "no column" in refusal(write_text(tmp_path / "a.csv", *AZURE), model="llama").what


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_mooncake_milliseconds_become_seconds_and_hashes_stay(tmp_path: Path, compression: str) -> None:
    path = write_text(tmp_path / "m.jsonl", *MOONCAKE, compress=COMPRESSIONS[compression])
    read = all_requests(open_trace(path))
    assert read.arrival_s.tolist() == [0.0, 3.5]
    assert read.prompt_tokens.tolist() == [6758, 7322]
    assert list(read.block_hashes or ()) == [(0, 1, 2), (0, 14)]


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(FORESAIL).encode())
    assert all_requests(open_trace(path)).prompt_tokens.tolist() == [10, 20, 30]


def test_a_trace_can_be_read_again_and_gives_the_same(tmp_path: Path) -> None:
    trace = open_trace(write_text(tmp_path / "t.csv", *FORESAIL))
    assert all_requests(trace).arrival_s.tolist() == all_requests(trace).arrival_s.tolist()


def test_a_long_file_comes_in_bounded_batches_and_the_order_is_checked_across_them(tmp_path: Path) -> None:
    count = 150_000
    arrivals = np.arange(count) / 100
    ones = np.ones(count, np.int32)
    path = write_parquet(tmp_path / "t.parquet", arrival_s=arrivals, prompt_tokens=ones, output_tokens=ones)
    assert [len(batch) for batch in open_trace(path).batches()] == [65_536, 65_536, 18_928]
    arrivals[65_536] = 1.0  # the first row of the second batch
    path = write_parquet(tmp_path / "u.parquet", arrival_s=arrivals, prompt_tokens=ones, output_tokens=ones)
    assert "row 65537" in refusal(path).where


# What is wrong with a file.


def test_a_missing_file_an_empty_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.csv").what
    empty = tmp_path / "empty.csv"
    empty.touch()
    assert "empty" in refusal(empty).what
    empty.write_bytes(gzip.compress(b""))
    assert "empty" in refusal(empty).what
    assert "folder" in refusal(tmp_path).what


def test_unknown_columns_are_named_with_the_formats_that_were_tried(tmp_path: Path) -> None:
    error = refusal(write_text(tmp_path / "x.csv", "when,tokens", "1,2"))
    assert "'when', 'tokens'" in error.what
    for known in ("arrival_s", "TIMESTAMP", "Request tokens", "input_length", "load series"):
        assert known in error.remedy


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    assert "twice" in refusal(write_text(tmp_path / "x.csv", f"{FORESAIL[0]},arrival_s", "0,1,1,5")).what


@pytest.mark.parametrize("lines", [FORESAIL[:1], AZURE[:1], BURSTGPT[:1]], ids=["foresail", "azure", "burstgpt"])
def test_a_header_without_rows_is_refused_before_anything_is_read(tmp_path: Path, lines: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match="no rows"):
        open_trace(write_text(tmp_path / "t.csv", *lines))


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path) -> None:
    none: list[int] = []
    path = write_parquet(
        tmp_path / "t.parquet",
        arrival_s=pa.array(none, pa.float64()),
        prompt_tokens=pa.array(none, pa.int32()),
        output_tokens=pa.array(none, pa.int32()),
    )
    assert "no rows" in refusal(path).what


@pytest.mark.parametrize(
    ("row", "column", "what"),
    [
        ("0.1,5,5", "arrival_s", "not sorted"),
        ("-3,5,5", "arrival_s", "-3"),
        ("nan,5,5", "arrival_s", "missing"),
        (",5,5", "arrival_s", "missing"),
        ("inf,5,5", "arrival_s", "inf"),
        ("6,0,5", "prompt_tokens", "0"),
        ("6,-4,5", "prompt_tokens", "-4"),
        ("6,5,0", "output_tokens", "0"),
        ("6,5,nan", "output_tokens", "missing"),
        ("6,5,2.5", "output_tokens", "2.5"),
        ("6,5e12,2", "prompt_tokens", "5e+12"),
        ("6,many,2", "prompt_tokens", "many"),
    ],
)
def test_a_bad_row_is_named_by_line_and_column(tmp_path: Path, row: str, column: str, what: str) -> None:
    path = write_text(tmp_path / "t.csv", *FORESAIL[:3], row, FORESAIL[3])
    error = refusal(path)
    assert error.where == f"{path}:4 column {column}"
    assert what in error.what


def test_a_ragged_row_is_named_by_line(tmp_path: Path) -> None:
    path = write_text(tmp_path / "t.csv", *FORESAIL, "9,5")
    assert refusal(path).where == f"{path}:5"


def test_unsorted_and_missing_azure_instants_are_named(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", *AZURE, "2023-11-16 18:15:50.1,7,1")
    error = refusal(path)
    assert error.where == f"{path}:5 column TIMESTAMP"
    assert "0.9 s before" in error.what
    path = write_text(tmp_path / "b.csv", *AZURE, ",7,1")
    assert refusal(path).where == f"{path}:5 column TIMESTAMP"
    path = write_text(tmp_path / "c.csv", *AZURE, "yesterday,7,1")
    assert refusal(path).where == f"{path}:5 column TIMESTAMP"


@pytest.mark.parametrize(
    "line",
    [
        '{"timestamp": 9000, "input_length": 0, "output_length": 5, "hash_ids": []}',
        '{"timestamp": 10, "input_length": 3, "output_length": 5, "hash_ids": []}',
        '{"timestamp": 9000, "output_length": 5, "hash_ids": []}',
        '{"timestamp": "late", "input_length": 3, "output_length": 5}',
        '{"timestamp": 9000, "input_length": 3',
    ],
    ids=["zero tokens", "unsorted", "key absent", "text", "cut off"],
)
def test_a_bad_mooncake_line_is_named(tmp_path: Path, line: str) -> None:
    path = write_text(tmp_path / "m.jsonl", *MOONCAKE, line)
    assert refusal(path).where.startswith(f"{path}:3")


@pytest.mark.parametrize("late", ["1e300", "1e15", "1.7e9"])
def test_an_arrival_after_ages_is_named(tmp_path: Path, late: str) -> None:
    path = write_text(tmp_path / "t.csv", *FORESAIL, f"{late},1,1")
    error = refusal(path)
    assert error.where == f"{path}:5 column arrival_s"
    assert "at most 100,000,000 s" in error.what


def test_too_many_tokens_say_how_many_there_may_be(tmp_path: Path) -> None:
    assert "from 1 to 2,147,483,647" in refusal(write_text(tmp_path / "t.csv", *FORESAIL, "9,3e9,1")).what


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('["' + "x" * 200_000 + '"]', "no CSV: field larger than field limit"),
        ('{"x": "' + "x" * 2_000_000 + '"}', "longer than 1,048,576 bytes"),
        ('{"x":' + "[" * 100_000, "not a readable JSON line"),
        ('{"x":' + "1" * 5_000 + "}", "not a readable JSON line"),
    ],
    ids=["no object", "too long", "too deep", "too many digits"],
)
def test_a_first_line_that_cannot_be_looked_at_is_refused(tmp_path: Path, line: str, what: str) -> None:
    path = write_text(tmp_path / "t.jsonl", line)
    error = refusal(path)
    assert what in error.what
    assert str(path) in error.where


def test_a_long_first_line_is_read(tmp_path: Path) -> None:
    long = MOONCAKE[0].replace("[0, 1, 2]", str(list(range(100_000))))
    assert all_requests(open_trace(write_text(tmp_path / "m.jsonl", long, MOONCAKE[1]))).arrival_s.tolist() == [0, 3.5]


def test_wrong_column_types_in_parquet_are_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", arrival_s=["soon"], prompt_tokens=[1], output_tokens=[1])
    assert "arrival_s" in refusal(path).where


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "zstd"])
@pytest.mark.parametrize("kept", [0.1, 0.6, 0.999])
def test_a_truncated_compressed_file_is_refused(tmp_path: Path, compression: str, kept: float) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{at},{tokens},1" for at, tokens in enumerate(rng.integers(1, 10**6, 50_000))]
    path = write_text(tmp_path / "t.csv.gz", FORESAIL[0], *rows, compress=COMPRESSIONS[compression])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    error = refusal(path)
    assert "truncated" in error.what
    assert error.where == str(path)


def test_damaged_bytes_are_refused(tmp_path: Path) -> None:
    path = write_text(tmp_path / "t.csv.gz", *FORESAIL, compress=gzip.compress)
    whole = bytearray(path.read_bytes())
    whole[20:40] = bytes(20)
    path.write_bytes(whole)
    refusal(path)
    path.write_bytes(bytes(range(256)) * 10)
    assert "neither Parquet nor text" in refusal(path).what


@pytest.mark.parametrize("kept", [0.3, 0.95])
def test_a_truncated_parquet_is_refused(tmp_path: Path, kept: float) -> None:
    path = write_parquet(
        tmp_path / "t.parquet", arrival_s=np.arange(5000.0), prompt_tokens=[1] * 5000, output_tokens=[1] * 5000
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert refusal(path).where == str(path)


def test_unknown_names_and_impossible_numbers_list_what_there_is(tmp_path: Path) -> None:
    path = write_text(tmp_path / "s.csv", "t,requests", "0,5", "60,6")
    assert "chat" in refusal(path, token_shape="poetry").remedy  # noqa: S106  (no password)
    assert "gamma" in refusal(path, arrivals="chaotic").remedy
    assert "CV" in refusal(path, arrivals="gamma", arrival_cv=0.0).what
    assert "-1" in refusal(path, seed=-1).what


# Recorded files.


def test_the_recorded_azure_trace_is_read_whole(recorded_traces: Path) -> None:
    read = all_requests(open_trace(recorded_traces / "azure2023_conv.csv"))
    assert len(read) == 19_366
    assert read.arrival_s[-1] == pytest.approx(3501.721937, abs=1e-6)
    assert int(read.prompt_tokens.sum(dtype=np.int64)) == 22_361_870
    assert int(read.output_tokens.sum(dtype=np.int64)) == 4_088_665


def test_the_recorded_mooncake_trace_is_read_whole(recorded_traces: Path) -> None:
    batches = list(open_trace(recorded_traces / "mooncake_synthetic.jsonl").batches())
    assert sum(map(len, batches)) == 3_993
    assert all(batch.block_hashes is not None for batch in batches)
