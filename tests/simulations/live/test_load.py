"""Does the load player read streams however they are cut, and count what happened?"""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.errors import BadInput
from policies.slo import ServiceObjective
from simulations.live.event_stream import EventStream
from simulations.live.load_client import Target
from simulations.live.load_player import body_of
from simulations.live.load_report import Ending, LoadRow, LoadTally
from simulations.live.openai_api import Answer, parse_request


def a_stream() -> bytes:
    asked = parse_request("text", body_of("m", 10, 5))
    answer = Answer(asked, "1", 0.0)
    return answer.tokens(4) + answer.closing(1, "length", 5)


def a_row(error: Ending | None = None, *, ttft_s: float = 0.5, tpot_s: float = 0.05, status: int = 200) -> LoadRow:
    if error is not None:
        ttft_s = tpot_s = math.nan
    return LoadRow(0, 1.0, 0.002, "m", 10, 5, 5, status, ttft_s, tpot_s, 2.0, error, "r-0")


def test_the_body_asks_for_exactly_so_many_tokens_of_so_long_a_prompt() -> None:
    asked = parse_request("text", body_of("org/m", 4321, 77))
    assert (asked.model, asked.prompt_tokens, asked.max_tokens) == ("org/m", 4321, 77)
    assert (asked.ignore_eos, asked.stream, asked.include_usage) == (True, True, True)


@given(st.lists(st.integers(0, len(a_stream())), max_size=12))
def test_a_stream_is_read_alike_however_the_network_cuts_it(cuts: list[int]) -> None:
    whole, stream = a_stream(), EventStream()
    edges = [0, *sorted(cuts), len(whole)]
    for at, (first, last) in enumerate(pairwise(edges)):
        stream.feed(whole[first:last], float(at))
    assert stream.done
    assert not stream.broken
    assert stream.tokens == 5
    assert stream.first_token_at <= stream.last_token_at


def test_first_and_last_token_are_timed_by_arrival() -> None:
    asked = parse_request("text", body_of("m", 10, 3))
    answer, stream = Answer(asked, "1", 0.0), EventStream()
    for at in (1.0, 2.0):
        stream.feed(answer.tokens(1), at)
    stream.feed(answer.closing(1, "length", 3), 3.0)
    assert (stream.first_token_at, stream.last_token_at, stream.tokens) == (1.0, 3.0, 3)


def test_a_stream_without_its_end_is_not_done_and_an_error_in_it_breaks_it() -> None:
    cut = EventStream()
    cut.feed(a_stream().removesuffix(b"data: [DONE]\n\n"), 1.0)
    assert not cut.done
    failed = EventStream()
    failed.feed(b'data: {"error": {"message": "engine died"}}\n\ndata: [DONE]\n\n', 1.0)
    assert failed.broken
    assert math.isnan(failed.first_token_at)


def test_tokens_of_a_cut_stream_are_its_events() -> None:
    stream = EventStream()
    asked = parse_request("text", body_of("m", 10, 9))
    stream.feed(Answer(asked, "1", 0.0).tokens(3), 1.0)
    assert stream.tokens == 3


@pytest.mark.parametrize(
    "url", ["http://10.1.2.3:80", "https://127.0.0.1:1", "http://127.0.0.1", "http://example.org:80", "127.0.0.1:80",
            "http://127.0.0.1:99999", "http://127.0.0.1:80/v1"],
)  # fmt: skip
def test_load_goes_nowhere_but_to_this_machine(url: str) -> None:
    with pytest.raises(BadInput):
        Target.parse(url)


def test_this_machine_may_be_called_localhost() -> None:
    assert Target.parse("http://localhost:80/") == Target("127.0.0.1", 80)
    assert Target.parse("http://127.0.0.1:8100").port == 8100


def test_every_failure_counts_by_kind_and_what_was_not_sent_is_no_error_of_the_fleet() -> None:
    tally = LoadTally(ServiceObjective(ttft_s=1.0, tpot_s=0.1))
    rows = [
        a_row(), a_row(ttft_s=2.0), a_row(tpot_s=0.2), a_row("cut"), a_row("http", status=503), a_row("connect"),
        a_row("not-sent"), a_row("unfinished"),
    ]  # fmt: skip
    for row in rows:
        tally.add(row)
    summary = tally.summary(peak_in_flight=4, wall_s=10.0)
    assert (summary.requests, summary.completed, summary.failed) == (8, 3, 4)
    assert (summary.client_visible_errors, summary.unfinished) == (3, 1)
    assert summary.errors == {"connect": 1, "cut": 1, "http-503": 1, "not-sent": 1}
    assert summary.slo_attainment_ratio == pytest.approx(1 / 7)
    assert summary.ttft_p50_s == 0.5


def test_a_summary_of_nothing_is_null_where_there_is_no_figure() -> None:
    figures = LoadTally(ServiceObjective()).summary(0, 0.0).as_json()
    assert figures["ttft_p50_s"] is None
    assert json.loads(json.dumps(figures, allow_nan=False))["requests"] == 0


def test_a_row_is_json_with_null_for_what_there_is_not() -> None:
    assert a_row("cut").as_json()["ttft_s"] is None
    assert a_row("cut").as_json()["error"] == "cut"
