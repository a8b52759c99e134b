"""What do the benchmark tools of the field write? Their result files as ``Measurement``s.

Read are the JSON of ``vllm bench serve`` (with and without ``--save-detailed``, one object or one a line), of GuideLLM
(``benchmarks.json``), of AIPerf and GenAI-Perf (summary JSON and ``profile_export.jsonl``), of inference-perf
(``stage_N_lifecycle_metrics.json`` and ``per_request_lifecycle_metrics.json``), request logs with ``input_toks``,
``arrival_time``, ``first_token_ts`` and ``last_token_ts`` a line, and CSV with a row per load. What a file is, its
content tells. A closed loop whose file does not say how many requests it had is taken to have ten per client.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from controller.errors import BadInput
from forecasting.series import FloatArray
from simulations.engine_runs import MEASURES, Times
from training.measurements import STATISTICS, Measurement

FORMATS = ("auto", "vllm", "guidellm", "aiperf", "inference-perf", "requests", "csv")
_VLLM_MEASURES, _CSV_MEASURES = ("ttft", "tpot", "e2el"), ("ttft", "tpot", "e2e")
_MOST_BYTES = 2**30
_REQUESTS_PER_CLIENT = 10
_MOST_REQUESTS = 4000  # of a summary: more would not change its mean, and a replay of them takes long
_CSV_COLUMNS = "concurrency or requests_per_s, prompt_tokens, output_tokens, ttft_ms, tpot_ms"

Json = Mapping[str, Any]


def read_results(path: Path, form: str = "auto") -> list[Measurement]:
    """Return the measurements in a result file.

    Args:
        path: The file.
        form: One of ``FORMATS``.

    Raises:
        BadInput: If it cannot be read, is of no known format, or holds no finished request.
    """
    text = _text_of(path)
    objects = _objects(text)
    form = _form_of(objects, path) if form == "auto" else form
    try:
        found = list(_READERS[form](objects if form != "csv" else text, path.stem.removesuffix("_requests")))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        said = f"no {error.args[0]!r} in it" if isinstance(error, KeyError) else str(error)
        raise BadInput(f"not what a {form} result looks like: {said}", str(path), "see docs/profiles.md") from None
    if not found:
        raise BadInput("it holds no finished request", str(path), "give a result with finished requests")
    return found


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadInput(f"larger than {_MOST_BYTES:,} bytes", str(path), "give a part of it")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(
            f"cannot be read: {(error.strerror or str(error)).lower()}", str(path), "check --input"
        ) from None
    except UnicodeDecodeError:
        raise BadInput("it is no text", str(path), "give JSON, JSON lines or CSV") from None


def _objects(text: str) -> list[Any]:
    """Return what the text holds as JSON, one document or one a line; nothing when it is not JSON."""
    try:
        whole = json.loads(text)
        return whole if isinstance(whole, list) else [whole]
    except ValueError:
        pass
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        return []


def _form_of(objects: Sequence[Any], path: Path) -> str:
    first = objects[0] if objects else None
    if first is None:
        if path.suffix.lower() == ".csv":
            return "csv"
        raise BadInput("neither JSON nor JSON lines", str(path), f"give --format, one of {', '.join(FORMATS[1:])}")
    if isinstance(first, Mapping):
        for form, keys in _MARKS:
            if keys <= first.keys():
                return form
    raise BadInput("a JSON file of no known tool", str(path), f"give --format, one of {', '.join(FORMATS[1:])}")


_MARKS: tuple[tuple[str, frozenset[str]], ...] = (
    ("guidellm", frozenset({"benchmarks"})),
    ("requests", frozenset({"input_toks", "first_token_ts"})),
    ("inference-perf", frozenset({"load_summary", "successes"})),
    ("inference-perf", frozenset({"start_time", "end_time", "info"})),
    ("aiperf", frozenset({"metadata", "metrics"})),
    ("aiperf", frozenset({"time_to_first_token", "input_config"})),
    ("aiperf", frozenset({"records", "input_config"})),
    ("vllm", frozenset({"mean_ttft_ms"})),
)


def _vllm(objects: Sequence[Json], name: str) -> Iterator[Measurement]:
    for number, result in enumerate(objects):
        where = name if len(objects) == 1 else f"{name}[{number}]"
        clients = result.get("max_concurrency")
        rate = float(result.get("request_rate", math.inf))
        if "ttfts" in result and "input_lens" in result:
            yield from _vllm_detailed(result, where, clients, rate)
            continue
        completed = int(result["completed"])
        if completed:
            prompt, output = result["total_input_tokens"] / completed, result["total_output_tokens"] / completed
            named = {(m, s): result.get(f"{_median(s)}_{m}_ms") for m in _VLLM_MEASURES for s in STATISTICS}
            figures = _summary(named, _VLLM_MEASURES, 1e-3)
            yield _summarised(where, prompt, output, clients, rate, completed, figures)


def _vllm_detailed(result: Json, where: str, clients: int | None, rate: float) -> Iterator[Measurement]:
    ttft = np.array(result["ttfts"], dtype=np.float64)
    decode_s = np.array([math.fsum(gaps) for gaps in result["itls"]])
    done = np.array([not error for error in result.get("errors") or [""] * len(ttft)])
    done &= (ttft > 0) & (np.array(result["output_lens"]) > 0)
    if not done.any():
        return
    prompt, output = _lengths(np.array(result["input_lens"])[done], np.array(result["output_lens"])[done])
    times = _times(ttft[done], decode_s[done], output)
    if result.get("start_times"):
        yield _recorded(where, np.array(result["start_times"])[done], prompt, output, times)
    elif math.isinf(rate):
        yield Measurement(where, prompt, output, concurrency=min(len(prompt), clients or len(prompt)), times=times)
    else:  # when they were sent is not told
        yield Measurement(where, prompt, output, arrived_at=np.arange(len(prompt)) / rate, times=times)


def _guidellm(objects: Sequence[Json], name: str) -> Iterator[Measurement]:
    for number, result in enumerate(objects[0]["benchmarks"]):
        where, metrics = f"{name}[{number}]", result["metrics"]
        completed = int(metrics["request_totals"]["successful"])
        listed = [row for row in (result.get("requests") or {}).get("successful") or [] if row.get("output_tokens")]
        if not completed:
            continue
        if len(listed) == completed:
            yield _of_rows(
                where,
                (
                    (
                        row["request_start_time"],
                        row["prompt_tokens"],
                        row["output_tokens"],
                        row["time_to_first_token_ms"] * 1e-3,
                        (row["inter_token_latency_ms"] or 0.0) * 1e-3 * (row["output_tokens"] - 1),
                    )
                    for row in listed
                ),
            )
            continue
        clients, rate = _guidellm_load(result)
        yield _summarised(
            where,
            metrics["prompt_token_count"]["successful"]["mean"],
            metrics["output_token_count"]["successful"]["mean"],
            clients,
            rate,
            completed,
            _guidellm_figures(metrics),
        )


def _guidellm_load(result: Json) -> tuple[int | None, float]:
    strategy = (result.get("config") or result.get("args") or {}).get("strategy") or {}
    kind = str(strategy.get("type_", "")).lower()
    if "constant" in kind or "poisson" in kind:
        return None, float(strategy["rate"])
    clients = strategy.get("streams") or strategy.get("max_concurrency") if "concurrent" in kind else None
    return round(clients or result["metrics"]["request_concurrency"]["successful"]["mean"]) or 1, math.inf


def _guidellm_figures(metrics: Json) -> dict[tuple[str, str], float]:
    # GuideLLM's own time per output token counts the first one; its inter-token latency is what is called TPOT here
    names = {"ttft": "time_to_first_token_ms", "tpot": "inter_token_latency_ms", "e2el": "request_latency"}

    named: dict[tuple[str, str], float | None] = {}
    for measure, name in names.items():
        told = (metrics.get(name) or {}).get("successful") or {}
        for statistic in STATISTICS:
            found = told.get("mean") if statistic == "mean" else (told.get("percentiles") or {}).get(statistic)
            in_s = name == "request_latency"
            named[measure, statistic] = None if found is None else float(found) * (1e3 if in_s else 1.0)
    return _summary(named, tuple(names), 1e-3)


def _aiperf(objects: Sequence[Json], name: str) -> Iterator[Measurement]:
    if "metadata" in objects[0]:
        rows = [
            (
                line["metadata"]["request_start_ns"] * 1e-9,
                _value(line, "input_sequence_length"),
                _value(line, "output_sequence_length"),
                _value(line, "time_to_first_token") * 1e-3,
                (_value(line, "request_latency") - _value(line, "time_to_first_token")) * 1e-3,
            )
            for line in objects
            if not line.get("error")
            and not line["metadata"].get("was_cancelled")
            and line["metadata"].get("benchmark_phase", "profiling") == "profiling"
            and (line["metrics"].get("output_sequence_length") or {}).get("value")
        ]
        if rows:
            yield _of_rows(name, rows)
        return
    whole = objects[0]
    metrics = whole.get("records", whole)
    names = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "e2el": "request_latency"}
    named = {
        (m, s): (metrics.get(name) or {}).get("avg" if s == "mean" else s)
        for m, name in names.items()
        for s in STATISTICS
    }
    figures = _summary(named, tuple(names), 1e-3)
    clients, rate = _named_in(whole["input_config"], "concurrency"), _named_in(whole["input_config"], "request_rate")
    yield _summarised(
        name,
        metrics["input_sequence_length"]["avg"],
        metrics["output_sequence_length"]["avg"],
        None if clients is None else int(clients),
        math.inf if rate is None else float(rate),
        int((metrics.get("request_count") or {}).get("avg") or 0),
        figures,
    )


def _inference_perf(objects: Sequence[Json], name: str) -> Iterator[Measurement]:
    if "info" in objects[0]:
        yield from _inference_perf_requests(objects, name)
        return
    for result in objects:
        load, done = result["load_summary"], result["successes"]
        if not done["count"]:
            continue
        latency, output = done["latency"], done["output_len"]["mean"]
        figures = {
            (measure, statistic): float(latency[told][_median(statistic)])
            for measure, told in (("ttft_s", "time_to_first_token"), ("e2e_s", "request_latency"))
            for statistic in STATISTICS
            if latency.get(told)
        }
        # Its time per output token counts chunks, empty ones too; from the means of the others it is right.
        decode_s = figures["e2e_s", "mean"] - figures["ttft_s", "mean"]
        figures["tpot_s", "mean"] = decode_s / max(output - 1.0, 1.0)
        rate, clients = load.get("achieved_rate") or load.get("requested_rate"), load.get("concurrency")
        yield _summarised(
            name, done["prompt_len"]["mean"], output, clients, float(rate or math.inf), done["count"], figures
        )


def _inference_perf_requests(objects: Sequence[Json], name: str) -> Iterator[Measurement]:
    rows = []
    for row in objects:
        said = (row.get("info") or {}).get("output_token_times") or []
        if not row.get("error") and said and row["info"]["output_tokens"]:
            begun = row["start_time"]
            tokens = row["info"]["output_tokens"]
            rows.append((begun, row["info"]["input_tokens"], tokens, said[0] - begun, row["end_time"] - said[0]))
    if rows:
        yield _of_rows(name, rows)


def _request_log(objects: Sequence[Json], name: str) -> Iterator[Measurement]:
    """TTFT counts from the client's arrival, which is on another clock than the engine's instants.

    The clocks are aligned so that the quickest request reached the engine's queue at once.
    """
    shift = min(row.get("queued_ts", row["arrival_time"]) - row["arrival_time"] for row in objects)
    yield _of_rows(
        name,
        (
            (
                row["arrival_time"] + shift,
                row["input_toks"],
                row["output_toks"],
                row["first_token_ts"] - row["arrival_time"] - shift,
                row["last_token_ts"] - row["first_token_ts"],
            )
            for row in objects
        ),
    )


def _csv(text: str, name: str) -> Iterator[Measurement]:
    table = csv.DictReader(io.StringIO(text))
    columns = set(table.fieldnames or ())
    if not {"prompt_tokens", "output_tokens"} <= columns or not columns & {"concurrency", "requests_per_s"}:
        raise ValueError(f"its columns are {', '.join(sorted(columns)) or 'none'}; needed are {_CSV_COLUMNS}")
    for number, row in enumerate(table, start=2):
        try:
            known = {key: float(value) for key, value in row.items() if key and value and value.strip()}
            named = {
                (m, s): known.get(f"{m}_ms" if s == "mean" else f"{m}_{s}_ms")
                for m in _CSV_MEASURES
                for s in STATISTICS
            }
            figures = _summary(named, _CSV_MEASURES, 1e-3)
            clients = known.get("concurrency")
            yield _summarised(
                f"{name}:{number}",
                known["prompt_tokens"],
                known["output_tokens"],
                None if clients is None else int(clients),
                known.get("requests_per_s", math.inf),
                int(known.get("requests", 0)),
                figures,
            )
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        except KeyError as error:
            raise ValueError(f"line {number}: no {error.args[0]}") from None


def _summarised(
    name: str,
    prompt_tokens: float,
    output_tokens: float,
    clients: int | None,
    rate_per_s: float,
    requests: int,
    figures: Mapping[tuple[str, str], float],
) -> Measurement:
    """Return a load of equal requests, as many as were sent or as do."""
    if not figures:
        raise ValueError("it has neither TTFT nor TPOT nor end-to-end times")
    if not all(math.isfinite(value) and value >= 0 for value in figures.values()):
        raise ValueError("a time is negative or not finite")
    if not (prompt_tokens >= 1 and output_tokens >= 1):
        raise ValueError(f"requests of {prompt_tokens:g} prompt and {output_tokens:g} output tokens")
    open_loop = clients is None and math.isfinite(rate_per_s)
    if clients is None and not open_loop:
        if not requests:
            raise ValueError("neither a concurrency nor a rate is told")
        clients = requests  # all at once
    if clients is not None and clients < 1:
        raise ValueError(f"a concurrency of {clients}")
    count = requests or (_REQUESTS_PER_CLIENT * clients if clients else 300)
    count = min(count, _MOST_REQUESTS)
    prompt, output = _lengths(np.full(count, prompt_tokens), np.full(count, output_tokens))
    if open_loop:
        if rate_per_s <= 0:
            raise ValueError(f"a rate of {rate_per_s:g} requests/s")
        return Measurement(name, prompt, output, arrived_at=np.arange(count) / rate_per_s, summary=dict(figures))
    return Measurement(name, prompt, output, concurrency=min(clients or 1, count), summary=dict(figures))


def _of_rows(name: str, rows: Iterator[Sequence[float]] | Sequence[Sequence[float]]) -> Measurement:
    """Return a run of requests, each as instant of arrival, prompt and output tokens, TTFT and decode time."""
    table = np.array([tuple(map(float, row)) for row in rows], dtype=np.float64)
    prompt, output = _lengths(table[:, 1], table[:, 2])
    return _recorded(name, table[:, 0], prompt, output, _times(table[:, 3], table[:, 4], output))


def _recorded(name: str, started_at: FloatArray, prompt: Any, output: Any, times: Times) -> Measurement:
    order = np.argsort(started_at, kind="stable")
    sorted_times = Times(times.ttft_s[order], times.tpot_s[order], times.e2e_s[order])
    return Measurement(name, prompt[order], output[order], started_at[order] - started_at[order[0]], times=sorted_times)


def _times(ttft_s: FloatArray, decode_s: FloatArray, output_tokens: Any) -> Times:
    if not (np.isfinite(ttft_s).all() and np.isfinite(decode_s).all() and (ttft_s > 0).all() and (decode_s >= 0).all()):
        raise ValueError("a time to first token or a decode time is negative or not finite")
    return Times(ttft_s, decode_s / np.maximum(output_tokens - 1, 1), ttft_s + decode_s)


def _lengths(prompt_tokens: Any, output_tokens: Any) -> tuple[Any, Any]:
    lengths = [np.rint(np.asarray(tokens, dtype=np.float64)) for tokens in (prompt_tokens, output_tokens)]
    if not all(np.isfinite(tokens).all() and (tokens >= 1).all() and (tokens < 2**31).all() for tokens in lengths):
        raise ValueError("a length in tokens is less than 1 or absurd")
    return lengths[0].astype(np.int32), lengths[1].astype(np.int32)


def _summary(
    named: Mapping[tuple[str, str], float | None], measures: Sequence[str], unit_s: float
) -> dict[tuple[str, str], float]:
    """Return seconds by measure and statistic of what is known of the three measures, by the file's names of them."""
    figures = {}
    for measure, told in zip(MEASURES, measures, strict=True):
        for statistic in STATISTICS:
            found = named[told, statistic]
            if found is not None:
                figures[measure, statistic] = float(found) * unit_s
    return figures


def _median(statistic: str) -> str:
    return "median" if statistic == "p50" else statistic


def _value(line: Json, metric: str) -> float:
    return float(line["metrics"][metric]["value"])


def _named_in(tree: Any, key: str) -> Any:
    """Return the first value under ``key`` anywhere in a tree of mappings; None without."""
    if not isinstance(tree, Mapping):
        return None
    if tree.get(key) is not None and not isinstance(tree[key], Mapping):
        return tree[key]
    found = (_named_in(branch, key) for branch in tree.values())
    return next((value for value in found if value is not None), None)


_READERS: Mapping[str, Callable[[Any, str], Iterator[Measurement]]] = {
    "vllm": _vllm,
    "guidellm": _guidellm,
    "aiperf": _aiperf,
    "inference-perf": _inference_perf,
    "requests": _request_log,
    "csv": _csv,
}
