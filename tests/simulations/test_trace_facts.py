"""Do the facts about a trace hold, however it is batched, and is there a picture of it?"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from controller.errors import BadInput
from simulations.block_hashes import BlockHashes
from simulations.trace import RequestBatch
from simulations.trace_facts import facts_of
from simulations.trace_facts_table import facts_table
from simulations.trace_plot import write_plot
from tests.builders_traces import ListedTrace, all_requests, drawn_trace, requests_at


def test_counts_rates_and_lengths() -> None:
    whole = all_requests(drawn_trace([10.0, 30.0, 10.0] * 20))
    facts = facts_of(ListedTrace(whole, size=777))
    assert facts.requests == len(whole)
    assert facts.span_s == whole.arrival_s[-1]
    assert facts.mean_requests_per_s == pytest.approx(len(whole) / whole.arrival_s[-1])
    minutes = np.bincount((whole.arrival_s / 60).astype(int))
    assert facts.peak_requests_per_s == pytest.approx(minutes[:-1].max() / 60)
    assert facts.prompt.mean == pytest.approx(whole.prompt_tokens.mean())
    assert facts.prompt.largest == whole.prompt_tokens.max()
    for p, value in zip((50, 90, 99), facts.output.percentiles, strict=True):
        assert value == np.percentile(whole.output_tokens, p, method="inverted_cdf")
    assert (facts.rates * facts.rate_step_s).sum() == pytest.approx(len(whole), rel=0.001)


@pytest.mark.parametrize("cv", [0.5, 1.0, 4.0])
def test_burstiness_is_that_of_the_process(cv: float) -> None:
    facts = facts_of(drawn_trace([50.0] * 60, cv=cv))
    assert facts.gap_cv == pytest.approx(cv, rel=0.05)
    # Variance over mean of counts over long spans is the squared CV (Cox); 60 spans of a minute are good to 40 %.
    assert facts.dispersion[60.0] == pytest.approx(cv**2, rel=0.6)


def test_silences_are_found_across_batches_and_before_the_first_request() -> None:
    facts = facts_of(ListedTrace(requests_at([100.0, 101.0, 102.0, 200.0, 201.0, 262.0]), size=3))
    assert (facts.longest_gap_s, facts.longest_gap_at_s) == (100.0, 0.0)
    assert facts.silences == 3
    facts = facts_of(ListedTrace(requests_at([0.0, 1.0, 2.0, 200.0]), size=1))
    assert (facts.longest_gap_s, facts.longest_gap_at_s) == (198.0, 2.0)


def test_sessions_and_seen_blocks_are_counted() -> None:
    batch = RequestBatch(np.arange(3.0), np.full(3, 9), np.full(3, 8), session=np.array([4, 4, -1]),
                         block_hashes=BlockHashes.of([(1, 2), (1, 2, 3), (9,)]))  # fmt: skip
    prefix = facts_of(ListedTrace(batch, size=2)).prefix
    assert prefix is not None
    assert (prefix.sessions, prefix.blocks) == (1, 6)
    assert prefix.seen_before_ratio == pytest.approx(2 / 6)


@pytest.mark.parametrize("at", [[0.0], [5.0], [1.0, 1.0], [0.0, 9e7]])
def test_tiny_and_endless_traces_have_facts_too(at: list[float], tmp_path: Path) -> None:
    facts = facts_of(ListedTrace(requests_at(at)))
    assert facts.requests == len(at)
    text = json.dumps(facts.as_json(), allow_nan=False)
    assert json.loads(text)["requests"] == len(at)
    assert facts_table(facts).row_count > 5
    assert math.isfinite(facts.peak_requests_per_s)
    write_plot(facts, tmp_path / "p.png")


def test_a_plot_is_written_whole(tmp_path: Path) -> None:
    facts = facts_of(drawn_trace([1.0, 3.0] * 1500))
    for name, start in (("p.png", b"\x89PNG"), ("p.svg", b"<?xml")):
        write_plot(facts, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["p.png", "p.svg"]
    with pytest.raises(BadInput, match="cannot be written"):
        write_plot(facts, tmp_path / "no" / "p.png")
