"""What holds for any chain of steps: refused in words, or in order, repeatable, aligned, and the same from a file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TypeAlias

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from controller.errors import BadInput
from simulations.block_hashes import BLOCK_TOKENS, BlockHashes
from simulations.trace import RequestBatch, Trace
from simulations.trace_files import open_trace
from simulations.trace_steps import composed
from simulations.trace_writing import write_trace
from tests.builders_traces import ListedTrace, all_requests, drawn_trace, requests_at

Row: TypeAlias = tuple[float, int, int, str, int, tuple[int, ...]]

_EDGES = st.sampled_from([0.0, 5e-324, 1e-9, 1 / 3, 1.0, 60.0, 119.99, 120.0, 121.0, 1e8, -1.0, float("nan")])
seconds = st.one_of(st.floats(0, 150), st.floats(0, 150), st.floats(0, 150), _EDGES)
factors = st.one_of(st.floats(0.2, 4), st.floats(0.2, 4), st.sampled_from([1e-300, 1e-9, 1 - 1e-13, 1 + 1e-13, 0.0]))
names = st.sampled_from(["plain", "modelled", "hashed", "drawn", "late"])


def _specs() -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("scale:{!r}".format, factors),
        st.builds("warp:{!r}".format, factors),
        st.builds("shift:{!r}".format, seconds),
        st.builds("slice@{!r}".format, seconds),
        st.builds("slice@{!r}:length={!r}".format, seconds, seconds),
        st.builds("repeat:{}".format, st.integers(1, 6)),
        st.builds("repeat:{},every={!r}".format, st.integers(1, 6), seconds),
        st.builds("concat:{}".format, names),
        st.builds("splice@{!r}:{}".format, seconds, names),
        st.builds("merge:{}".format, names),
        st.builds("crowd@{!r}:peak={!r},ramp={!r}".format, seconds, st.floats(1.001, 5), seconds),
        st.builds("outage@{!r}:length={!r},retry={!r}".format, seconds, seconds, st.floats(0, 1)),
    )


def opened(name: str | Path) -> Trace:
    """Return one of a few small traces, with other optional columns each."""
    at_s = np.array([0.1, 0.2, 0.30000000000000004, 1 / 3, 7.0, 7.0, 41.7, 77.7, 119.9])
    count = len(at_s)
    plain = requests_at(at_s)
    match name:
        case "plain":
            return ListedTrace(plain, 4)
        case "late":
            return ListedTrace(requests_at([50.0]))
        case "modelled":
            codes = np.arange(count) % 3
            batch = RequestBatch(at_s, plain.prompt_tokens, plain.output_tokens, codes, ("a", "", "b"))
            return ListedTrace(batch, 2)
        case "hashed":
            blocks = 1 + np.arange(count) % 3
            hashes = BlockHashes.of((*range(1, each), 100 + row) for row, each in enumerate(blocks))
            prompt = blocks * BLOCK_TOKENS
            return ListedTrace(RequestBatch(at_s, prompt, plain.output_tokens, None, (), np.arange(count), hashes), 3)
        case _:
            return drawn_trace([0.2, 0.0, 0.5], step_s=40.0, cv=2.0)


def rows_of(trace: Trace) -> list[Row]:
    """Return all that is known of every request."""
    if not (batches := list(trace.batches())):
        return []
    ends_s = [float(at_s) for batch in batches for at_s in (batch.arrival_s[0], batch.arrival_s[-1])]
    assert ends_s == sorted(ends_s)  # within a batch nothing else can be made
    whole = all_requests(trace)
    count = len(whole)
    models = [""] * count if whole.model is None else [whole.models[code] for code in whole.model]
    sessions = [-1] * count if whole.session is None else whole.session.tolist()
    hashes = [()] * count if whole.block_hashes is None else list(whole.block_hashes)
    columns = (whole.arrival_s.tolist(), whole.prompt_tokens.tolist(), whole.output_tokens.tolist())
    return list(zip(*columns, models, sessions, hashes, strict=True))


@settings(max_examples=150)
@given(names, st.lists(_specs(), min_size=1, max_size=5), st.integers(0, 2**40))
def test_any_chain_is_refused_or_gives_a_trace_that_can_be_written_and_read_again(
    base: str, specs: list[str], seed: int
) -> None:
    try:
        trace = composed(opened(base), specs, seed, opened)
        rows = rows_of(trace)
    except BadInput:
        return
    assert rows == rows_of(composed(opened(base), specs, seed, opened))
    assert all(not hashes or len(hashes) * BLOCK_TOKENS == prompt for _, prompt, _, _, _, hashes in rows)
    assume(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.parquet"
        assert write_trace(trace, path) == len(rows)
        assert rows_of(open_trace(path)) == rows
