"""Do steps change a trace as they say, the same however it is batched, and refuse what cannot be?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from controller.errors import BadInput
from simulations.block_hashes import BlockHashes
from simulations.trace import RequestBatch, Trace
from simulations.trace_files import open_trace
from simulations.trace_steps import SYNTAX, composed, parse_step
from tests.builders_traces import ListedTrace, all_requests, drawn_trace, requests_at, write_text


def steady(seconds: float = 3600.0, per_s: float = 10.0) -> RequestBatch:
    """Requests at even distances, told apart by their output tokens."""
    at_s = np.arange(0.0, seconds, 1 / per_s)
    return RequestBatch(at_s, np.full(len(at_s), 100), np.arange(1, len(at_s) + 1))


def changed(trace: Trace, *specs: str, seed: int = 0) -> RequestBatch:
    return all_requests(composed(trace, specs, seed, open_trace))


def per_minute(batch: RequestBatch, minutes: int) -> np.ndarray:
    return np.bincount((batch.arrival_s / 60).astype(int), minlength=minutes)[:minutes]


def test_warp_stretches_time() -> None:
    got = changed(ListedTrace(requests_at([0.0, 10.0, 30.0])), "warp:1.5")
    assert got.arrival_s.tolist() == [0.0, 15.0, 45.0]


def test_shift_and_slice_undo_each_other() -> None:
    got = changed(ListedTrace(requests_at([0.0, 10.0, 30.0])), "shift:100", "slice@100")
    assert got.arrival_s.tolist() == [0.0, 10.0, 30.0]
    assert changed(ListedTrace(requests_at([0.0, 10.0])), "slice@5:length=6").arrival_s.tolist() == [5.0]


def test_repeats_follow_each_other_at_the_end_or_at_fixed_times() -> None:
    listed = ListedTrace(requests_at([0.0, 10.0]))
    assert changed(listed, "repeat:3").arrival_s.tolist() == [0, 10, 10, 20, 20, 30]
    assert changed(listed, "repeat:2,every=60").arrival_s.tolist() == [0, 10, 60, 70]
    # What is drawn for ten minutes lasts ten minutes, whenever its last request arrives.
    twice = changed(drawn_trace([5.0] * 10), "repeat:2").arrival_s
    half = len(twice) // 2
    assert twice[half:] == pytest.approx(twice[:half] + 600)


def test_a_repetition_begins_where_the_one_before_ends_however_sums_are_rounded() -> None:
    # 2 * 0.7 + 0.7 is more than 3 * 0.7 in binary fractions.
    whole = ListedTrace(requests_at([0.0, 0.7]))
    for times in (4, 13):
        got = changed(whole, f"repeat:{times}").arrival_s
        assert (np.diff(got) >= 0).all()
        assert got == pytest.approx(np.sort([0.7 * (each + late) for each in range(times) for late in (0, 1)]))


@pytest.mark.parametrize("late", ["outage@500:length=100,retry=1,spread=60", "crowd@500:peak=9,ramp=9", "warp:1"])
def test_what_arrives_after_the_end_is_waited_for_by_what_follows(late: str) -> None:
    """Drawn load lasts ten minutes; retries and jittered copies come later than that."""
    drawn = composed(drawn_trace([5.0] * 10), [late], 0, open_trace)
    last_s = max(600.0, float(all_requests(drawn).arrival_s[-1]))
    twice = changed(drawn, "repeat:2").arrival_s
    half = len(twice) // 2
    assert twice[half:] == pytest.approx(twice[:half] + last_s)
    put_in = composed(ListedTrace(requests_at([0.0, 10.0])), ["splice@5:late"], 0, lambda _: drawn)
    assert all_requests(put_in).arrival_s[-1] == pytest.approx(last_s + 10)


def test_files_are_appended_put_in_and_added(tmp_path: Path) -> None:
    path = write_text(tmp_path / "b.csv", "arrival_s,prompt_tokens,output_tokens", "0,7,7", "4,7,7")
    listed = ListedTrace(requests_at([0.0, 10.0, 20.0]), size=2)
    assert changed(listed, f"concat:{path}").arrival_s.tolist() == [0, 10, 20, 20, 24]
    assert changed(listed, f"splice@10:{path}").arrival_s.tolist() == [0, 10, 14, 14, 24]
    assert changed(listed, f"merge:{path}").arrival_s.tolist() == [0, 0, 4, 10, 20]
    assert changed(listed, f"merge:{path}").prompt_tokens.tolist() == [100, 7, 7, 100, 100]


def test_a_crowd_multiplies_the_load_as_drawn() -> None:
    got = changed(ListedTrace(steady()), "crowd@600:peak=4,ramp=120,length=600,fall=240")
    load = per_minute(got, 60) / 600
    assert load[:9] == pytest.approx(np.ones(9))
    assert load[25:] == pytest.approx(np.ones(35))  # a jitter of 5 s after the end
    # Half way up in minutes 10 and 11: 1.75 and 3.25 on average.
    assert load[10:24] == pytest.approx([1.75, 3.25, *[4.0] * 8, 3.63, 2.88, 2.13, 1.38], abs=0.25)
    assert (np.diff(got.arrival_s) >= 0).all()


def test_an_outage_is_silent_and_comes_back_as_a_surge() -> None:
    got = changed(ListedTrace(steady()), "outage@600:length=120,retry=0.5,spread=30")
    load = per_minute(got, 60)
    assert load[10:12].tolist() == [0, 0]
    missing = 36_000 - len(got)
    assert missing == pytest.approx(600, abs=90)  # of 1200, half: sd 17
    # An exponential wait of 30 s: 86 % within the first minute.
    assert load[12] - 600 == pytest.approx(0.86 * 600, abs=90)
    back = got.output_tokens[(got.output_tokens > 6000) & (got.output_tokens <= 7200)]
    assert len(back) == 1200 - missing


def test_an_outage_without_retries_loses_all_and_one_at_the_end_still_surges() -> None:
    assert len(changed(ListedTrace(steady()), "outage@600:length=60,retry=0")) == 35_400
    last = changed(ListedTrace(steady(600)), "outage@540:length=60,retry=1,spread=10")
    assert len(last) == 6000
    assert (last.arrival_s[-600:] >= 600).all()


@pytest.mark.parametrize(
    "specs",
    [
        ("crowd@600:peak=2.5,ramp=60,length=300",),
        ("outage@1000:length=300,retry=0.7",),
        ("scale:2.3", "crowd@100:peak=3", "outage@1500", "warp:0.7", "repeat:2"),
    ],
    ids=str,
)
def test_batches_do_not_matter_and_seeds_do(specs: Sequence[str]) -> None:
    whole = steady(2400, 5.0)
    one, other = (changed(ListedTrace(whole, size), *specs) for size in (37, 65_536))
    assert np.array_equal(one.arrival_s, other.arrival_s)
    assert np.array_equal(one.output_tokens, other.output_tokens)
    assert not np.array_equal(changed(ListedTrace(whole), *specs, seed=1).arrival_s, one.arrival_s)


def test_two_equal_steps_do_not_copy_the_same_requests() -> None:
    once = changed(ListedTrace(steady(600)), "scale:0.5")
    twice = changed(ListedTrace(steady(600)), "scale:0.5", "scale:0.5")
    assert len(twice) == pytest.approx(len(once) / 2, rel=0.1)


def with_prefixes(seconds: float) -> RequestBatch:
    base = steady(seconds, 1.0)
    count = len(base)
    return RequestBatch(base.arrival_s, base.prompt_tokens, base.output_tokens, np.arange(count) % 2, ("a", "b"),
                        np.arange(count), BlockHashes.of((1, 100 + i) for i in range(count)))  # fmt: skip


@pytest.mark.parametrize(
    "spec", ["warp:2", "repeat:2", "crowd@10:peak=3,ramp=5,length=20", "outage@20:length=20,retry=1", "shift:3"]
)
def test_models_sessions_and_prefixes_pass_through(spec: str) -> None:
    got = changed(ListedTrace(with_prefixes(100), size=7), spec)
    assert got.model is not None
    assert got.session is not None
    rows = {output: (model, hashes) for output, model, hashes in zip(
        got.output_tokens.tolist(), got.model.tolist(), list(got.block_hashes or ()), strict=True
    )}  # fmt: skip
    assert {model for _, (model, _) in rows.items()} == {0, 1}
    assert all(model == (output - 1) % 2 for output, (model, _) in rows.items())
    # Within one user group the first block is shared; groups share nothing.
    groups = {hashes[0] for hashes in list(got.block_hashes or ())}
    assert len(groups) == {"repeat:2": 2, "crowd@10:peak=3,ramp=5,length=20": 3}.get(spec, 1)
    assert len(set(got.session.tolist())) == len(got)


def test_a_mixture_fills_what_one_part_does_not_know(tmp_path: Path) -> None:
    path = write_text(tmp_path / "b.csv", "arrival_s,prompt_tokens,output_tokens,model", "0.5,7,7,c", "4.5,7,7,a")
    got = changed(ListedTrace(with_prefixes(6), size=4), f"merge:{path}")
    assert got.model is not None
    assert [got.models[code] for code in got.model] == ["a", "c", "b", "a", "b", "a", "a", "b"]
    assert got.session is not None
    assert got.session.tolist()[1] == -1
    assert [len(hashes) for hashes in list(got.block_hashes or ())] == [2, 0, 2, 2, 2, 2, 0, 2]


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("stretch:2", "unknown kind"),
        ("warp:0", "more than 0"),
        ("warp:-1", "more than 0"),
        ("warp:nan", "more than 0"),
        ("warp:x", "must be a number"),
        ("warp", "value is missing"),
        ("warp@3:2", "no instant"),
        ("scale:0", "more than 0"),
        ("scale:1e9", "to 10000"),
        ("crowd:peak=2", "needs an instant"),
        ("crowd@nan:peak=2", "from 0"),
        ("crowd@-1:peak=2", "from 0"),
        ("crowd@10:peak=1", "more than 1"),
        ("crowd@10:peak=2,peak=3", "twice"),
        ("crowd@10:height=3", "unknown key 'height'"),
        ("crowd@10:ramp=100,length=50", "shorter than the ramp"),
        ("crowd@10:3", "no plain value"),
        ("outage@10:length=0", "more than 0"),
        ("outage@10:retry=1.1", "from 0 to 1"),
        ("repeat:1.5", "whole number"),
        ("repeat:0", "from 1"),
        ("shift:-5", "from 0"),
        ("slice@5:length=inf", "to 1e+08"),
        ("concat:", "no file"),
        ("merge", "no file"),
    ],
)
def test_a_step_that_cannot_be_is_refused_with_the_syntax(spec: str, what: str) -> None:
    with pytest.raises(BadInput, match=what.replace("+", r"\+")) as caught:
        parse_step(spec)
    assert caught.value.where == f"step {spec!r}"
    assert caught.value.remedy == SYNTAX


@pytest.mark.parametrize(
    ("specs", "what"),
    [
        (("warp:1e8",), "at most 100,000,000 s"),
        (("warp:1e8", "warp:1e8", "warp:1e8"), "at most 100,000,000 s"),
        (("repeat:10000,every=1e7",), "at most 100,000,000 s"),
        (("repeat:2,every=5",), "has begun"),
        (("crowd@1e6",), "nothing to change"),
        (("outage@1e6",), "nothing to change"),
        (("splice@1e6:FILE",), "nothing to change"),
        (("slice@1e6",), "no request arrives"),
        (("concat:nowhere.csv",), "no such file"),
        (("scale:1",) * 65, "too many"),
    ],
    ids=str,
)
def test_steps_that_do_not_fit_are_refused(tmp_path: Path, specs: Sequence[str], what: str) -> None:
    path = write_text(tmp_path / "b.csv", "arrival_s,prompt_tokens,output_tokens", "0,7,7")
    with pytest.raises(BadInput, match=what):
        changed(ListedTrace(steady(600)), *(spec.replace("FILE", str(path)) for spec in specs))
