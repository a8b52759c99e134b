"""Are the result files of the field's benchmark tools read as what they say? Small files in their formats, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.errors import BadInput
from training.bench_results import read_results
from training.measurements import Measurement


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def only(path: Path, form: str = "auto") -> Measurement:
    (one,) = read_results(path, form)
    return one


VLLM_SUMMARY = {
    "date": "20260101-120000",
    "backend": "openai",
    "model_id": "m",
    "num_prompts": 200,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 16,
    "duration": 40.0,
    "completed": 160,
    "total_input_tokens": 160 * 1024,
    "total_output_tokens": 160 * 128,
    "mean_ttft_ms": 150.0,
    "median_ttft_ms": 140.0,
    "p99_ttft_ms": 400.0,
    "mean_tpot_ms": 20.0,
    "median_tpot_ms": 19.0,
    "p99_tpot_ms": 31.0,
}


def test_a_summary_of_vllm_bench_is_a_closed_loop_of_equal_requests(tmp_path: Path) -> None:
    one = only(written(tmp_path, "r.json", VLLM_SUMMARY))
    assert (one.concurrency, len(one), one.arrived_at, one.times) == (16, 160, None, None)
    assert set(one.prompt_tokens) == {1024}
    assert set(one.output_tokens) == {128}
    assert one.measured()["ttft_s", "mean"] == pytest.approx(0.15)
    assert one.measured()["ttft_s", "p50"] == pytest.approx(0.14)
    assert one.measured()["tpot_s", "p99"] == pytest.approx(0.031)


def test_results_appended_to_one_file_are_read_one_by_one(tmp_path: Path) -> None:
    lines = [json.dumps(VLLM_SUMMARY | {"max_concurrency": many}) for many in (1, 4)]
    found = read_results(written(tmp_path, "r.jsonl", "\n".join(lines)))
    assert [(one.name, one.concurrency) for one in found] == [("r[0]", 1), ("r[1]", 4)]


def test_a_finite_rate_is_an_open_loop(tmp_path: Path) -> None:
    one = only(written(tmp_path, "r.json", VLLM_SUMMARY | {"request_rate": 4.0, "max_concurrency": None}))
    assert one.concurrency == 0
    assert one.arrived_at is not None
    assert one.arrived_at[:3].tolist() == [0.0, 0.25, 0.5]


VLLM_DETAILED = VLLM_SUMMARY | {
    "input_lens": [100, 200, 300, 400],
    "output_lens": [3, 1, 0, 2],
    "ttfts": [0.5, 0.2, 0.0, 0.3],
    "itls": [[0.1, 0.3], [], [], [0.2]],
    "errors": ["", "", "connection reset", ""],
}


def test_details_of_vllm_bench_give_every_finished_request(tmp_path: Path) -> None:
    one = only(written(tmp_path, "r.json", VLLM_DETAILED))
    assert one.concurrency == 3  # sixteen were allowed, three finished
    assert one.prompt_tokens.tolist() == [100, 200, 400]
    assert one.times is not None
    np.testing.assert_allclose(one.times.ttft_s, [0.5, 0.2, 0.3])
    np.testing.assert_allclose(one.times.tpot_s, [0.2, 0.0, 0.2])
    np.testing.assert_allclose(one.times.e2e_s, [0.9, 0.2, 0.5])


def test_start_times_make_a_run_in_the_order_in_which_requests_were_sent(tmp_path: Path) -> None:
    one = only(written(tmp_path, "r.json", VLLM_DETAILED | {"start_times": [12.0, 10.0, 11.0, 10.5]}))
    assert one.arrived_at is not None
    assert one.arrived_at.tolist() == [0.0, 0.5, 2.0]
    assert one.prompt_tokens.tolist() == [200, 400, 100]


def distribution(mean: float) -> dict[str, Any]:
    return {"successful": {"mean": mean, "percentiles": {"p50": mean, "p90": 1.5 * mean, "p99": 2.0 * mean}}}


def a_guidellm_benchmark(strategy: dict[str, Any], requests: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "config": {"strategy": strategy},
        "metrics": {
            "request_totals": {"successful": 40, "errored": 1, "incomplete": 2, "total": 43},
            "request_concurrency": distribution(7.6),
            "prompt_token_count": distribution(256.0),
            "output_token_count": distribution(64.0),
            "time_to_first_token_ms": distribution(80.0),
            "time_per_output_token_ms": distribution(99.0),
            "inter_token_latency_ms": distribution(12.0),
            "request_latency": distribution(0.9),
        },
        "requests": {"successful": requests, "incomplete": [], "errored": []},
    }


def test_guidellm_holds_a_benchmark_per_rate(tmp_path: Path) -> None:
    report = {
        "metadata": {"version": 1},
        "benchmarks": [
            a_guidellm_benchmark({"type_": "synchronous"}, []),
            a_guidellm_benchmark({"type_": "concurrent", "streams": 8}, []),
            a_guidellm_benchmark({"type_": "constant", "rate": 5.0}, []),
        ],
    }
    report["benchmarks"][0]["metrics"]["request_concurrency"] = distribution(0.98)  # type: ignore[index]
    found = read_results(written(tmp_path, "benchmarks.json", report))
    assert [one.concurrency for one in found] == [1, 8, 0]
    assert found[2].load == "5 requests/s"
    assert found[1].measured()["tpot_s", "mean"] == pytest.approx(0.012)  # not 99 ms: that counts the first token
    assert found[1].measured()["e2e_s", "p90"] == pytest.approx(1.35)


def test_guidellm_lists_requests_when_it_was_told_to_keep_them_all(tmp_path: Path) -> None:
    rows = [
        {
            "request_start_time": 100.0 + number,
            "prompt_tokens": 256,
            "output_tokens": 11,
            "time_to_first_token_ms": 80.0,
            "inter_token_latency_ms": 12.0,
        }
        for number in range(40)
    ]
    report = {"benchmarks": [a_guidellm_benchmark({"type_": "throughput"}, rows)]}
    one = only(written(tmp_path, "benchmarks.json", report))
    assert one.times is not None
    assert one.arrived_at is not None
    assert one.arrived_at[-1] == 39.0
    assert one.times.e2e_s[0] == pytest.approx(0.08 + 10 * 0.012)


def an_aiperf_summary() -> dict[str, Any]:
    def metric(unit: str, avg: float) -> dict[str, Any]:
        return {"unit": unit, "avg": avg, "p50": avg, "p90": 1.2 * avg, "p99": 1.4 * avg, "std": 0.1}

    return {
        "request_count": metric("requests", 64.0),
        "request_latency": metric("ms", 3652.0),
        "time_to_first_token": metric("ms", 30.8),
        "inter_token_latency": metric("ms", 18.2),
        "input_sequence_length": metric("tokens", 100.0),
        "output_sequence_length": metric("tokens", 200.0),
        "input_config": {"loadgen": {"concurrency": 4, "request_count": 64}},
    }


def test_a_summary_of_aiperf_is_read_flat_and_nested_under_records(tmp_path: Path) -> None:
    flat = an_aiperf_summary()
    nested = {"records": {k: v for k, v in flat.items() if k != "input_config"}, "input_config": flat["input_config"]}
    for name, content in (("flat.json", flat), ("nested.json", nested)):
        one = only(written(tmp_path, name, content))
        assert (one.concurrency, len(one)) == (4, 64)
        assert one.measured()["tpot_s", "mean"] == pytest.approx(0.0182)
        assert one.measured()["e2e_s", "p99"] == pytest.approx(3.652 * 1.4)


def test_records_of_aiperf_leave_out_warm_up_errors_and_cancelled_requests(tmp_path: Path) -> None:
    def record(start_s: int, **changes: Any) -> str:
        metadata = {"request_start_ns": start_s * 10**9, "benchmark_phase": "profiling", "was_cancelled": False}
        metrics = {
            "input_sequence_length": {"value": 100, "unit": "tokens"},
            "output_sequence_length": {"value": 21, "unit": "tokens"},
            "time_to_first_token": {"value": 50.0, "unit": "ms"},
            "request_latency": {"value": 450.0, "unit": "ms"},
        }
        return json.dumps({"metadata": metadata | changes, "metrics": metrics, "error": changes.get("error")})

    lines = [
        record(1, benchmark_phase="warmup"), record(3), record(2), record(4, was_cancelled=True),
        record(5, error={"error_code": "500"}),
    ]  # fmt: skip
    one = only(written(tmp_path, "profile_export.jsonl", "\n".join(lines)))
    assert one.arrived_at is not None
    assert one.arrived_at.tolist() == [0.0, 1.0]
    assert one.times is not None
    np.testing.assert_allclose(one.times.tpot_s, 0.02)


def test_a_stage_of_inference_perf_gives_tpot_from_latency_and_ttft(tmp_path: Path) -> None:
    stage = {
        "load_summary": {"count": 100, "requested_rate": 5.0, "achieved_rate": 4.0},
        "successes": {
            "count": 100,
            "latency": {
                "request_latency": {"mean": 3.05, "median": 3.0, "p90": 3.4, "p99": 3.6},
                "time_to_first_token": {"mean": 0.05, "median": 0.05, "p90": 0.07, "p99": 0.09},
                "time_per_output_token": {"mean": 0.0125},
            },
            "prompt_len": {"mean": 130.2},
            "output_len": {"mean": 121.0},
        },
        "failures": {"count": 0},
    }
    one = only(written(tmp_path, "stage_1_lifecycle_metrics.json", stage))
    assert one.load == "4 requests/s"
    assert one.measured()["tpot_s", "mean"] == pytest.approx(0.025)  # its own figure counts empty chunks, too
    assert one.measured()["ttft_s", "p99"] == pytest.approx(0.09)


def test_requests_of_inference_perf_are_read_with_their_token_times(tmp_path: Path) -> None:
    rows = [
        {
            "start_time": 10.0 + number,
            "end_time": 11.0 + number,
            "info": {"input_tokens": 50, "output_tokens": 5, "output_token_times": [10.2 + number, 10.5 + number]},
            "error": None,
        }
        for number in range(3)
    ]
    rows.append({"start_time": 20.0, "end_time": 21.0, "info": {}, "error": {"error_type": "timeout"}})  # type: ignore[dict-item]
    one = only(written(tmp_path, "per_request_lifecycle_metrics.json", rows))
    assert len(one) == 3
    assert one.times is not None
    np.testing.assert_allclose(one.times.ttft_s, 0.2)
    np.testing.assert_allclose(one.times.tpot_s, 0.2)


def test_a_request_log_is_aligned_to_the_quickest_way_into_the_queue(tmp_path: Path) -> None:
    rows = [
        {"input_toks": 10, "output_toks": 3, "arrival_time": 100.0 + wait, "queued_ts": 5.0 + 2 * wait,
         "first_token_ts": 6.0 + wait, "last_token_ts": 8.0 + wait}
        for wait in (0.0, 0.5)
    ]  # fmt: skip
    one = only(written(tmp_path, "a_requests.jsonl", "\n".join(map(json.dumps, rows))))
    assert one.name == "a"
    assert one.times is not None
    np.testing.assert_allclose(one.times.ttft_s, [1.0, 1.0])  # 100.0 on the client's clock is 5.0 on the engine's


def test_a_table_has_a_row_per_load(tmp_path: Path) -> None:
    text = "concurrency,prompt_tokens,output_tokens,ttft_ms,tpot_ms,ttft_p99_ms\n1,512,64,40,9,\n8,512,64,70,11,160\n"
    first, second = read_results(written(tmp_path, "sweep.csv", text))
    assert (first.name, first.concurrency, len(first)) == ("sweep:2", 1, 10)
    assert ("ttft_s", "p99") not in first.measured()
    assert second.measured()["ttft_s", "p99"] == pytest.approx(0.16)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "{", "neither JSON nor JSON lines"),
        ("a.json", {"hello": 1}, "JSON file of no known tool"),
        ("a.json", VLLM_SUMMARY | {"completed": 0}, "no finished request"),
        ("a.json", VLLM_SUMMARY | {"mean_ttft_ms": -1.0}, "negative or not finite"),
        ("a.json", VLLM_SUMMARY | {"total_input_tokens": 0}, "0 prompt"),
        ("a.json", VLLM_DETAILED | {"input_lens": [1]}, "vllm result"),
        ("a.csv", "concurrency,ttft_ms\n1,2\n", "needed are concurrency"),
        ("a.csv", "concurrency,prompt_tokens,output_tokens,ttft_ms\n1,12,x,2\n", "line 2"),
        ("a.csv", "concurrency,prompt_tokens,output_tokens,ttft_ms\n1,12,,2\n", "line 2: no output_tokens"),
        ("a.csv", "concurrency,prompt_tokens,output_tokens,ttft_ms\n0,12,3,2\n", "a concurrency of 0"),
        ("a.csv", "concurrency,prompt_tokens,output_tokens,ttft_ms\n2,12,3,\n", "neither TTFT nor TPOT"),
    ],
)
def test_what_cannot_be_read_is_bad_input(tmp_path: Path, name: str, content: Any, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_results(written(tmp_path, name, content))
    assert said in caught.value.what
    assert str(tmp_path / name) == caught.value.where


def test_files_that_are_not_there_and_bytes_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        read_results(tmp_path / "none.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="it is no text"):
        read_results(tmp_path / "b.json")
