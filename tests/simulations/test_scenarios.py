"""Are the shipped scenarios there by name, and do they always give the same requests?"""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from controller.errors import BadInput
from simulations.options import jobs_of
from simulations.scenario import read_scenario, shipped_scenarios
from simulations.session_workload import SessionSettings, SessionTrace
from simulations.token_shapes import token_shape_named
from simulations.trace import RequestBatch, joined
from tests.builders_traces import all_requests, write_text

DIGESTS = {
    "disaggregated": "967208158ad45d1e",
    "diurnal-week": "c5f5c3f0ec728fbd",
    "flash-crowd": "9dcde8946660f824",
    "llm-d-decode-heavy": "c0b92b0739c525da",
    "llm-d-prefill-heavy": "6e5c8708fb57f2b0",
    "llm-d-steps": "1759eac78a940bf8",
    "llm-d-symmetric": "d579f2ba7f940db1",
    "multi-turn-chat": "05e9857e11c54dde",
    "outage-and-retries": "e0193a7137c3fa13",
    "shared-prefixes": "ea8304e2ded9574f",
    "slow-ramp": "8694dbc62cb3b4fb",
    "square-bursts": "d12431cbded11c16",
    "step": "9716c7c3e32d9575",
    "weekend": "cf4a507b726f538c",
}

NO_OPTIONS = {"model_dir": None, "model": None}


def beginning(name: str, count: int = 20_000) -> RequestBatch:
    """The first requests of a scenario, as ``simulate --scenario NAME`` replays them."""
    (job,) = jobs_of([], ["hpa"], [0], {**NO_OPTIONS, "scenario": Path(name)})
    opened = job.trace.open(job.settings)
    return joined(list(islice(opened.trace.batches(), 1))).between(0, count)


def digest(batch: RequestBatch) -> str:
    """Of milliseconds and tokens: the last bits of logarithms differ from processor to processor."""
    columns = (np.rint(batch.arrival_s * 1e3).astype(np.int64), batch.prompt_tokens, batch.output_tokens)
    return hashlib.sha256(b"".join(each.tobytes() for each in columns)).hexdigest()[:16]


def test_every_shipped_scenario_is_pinned() -> None:
    assert set(DIGESTS) == set(shipped_scenarios())


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_a_scenario_gives_the_requests_that_it_always_gave(name: str) -> None:
    scenario = read_scenario(Path(name))
    assert 20 < len(scenario.description) < 130
    assert digest(beginning(name)) == DIGESTS[name]


@pytest.mark.parametrize(
    ("name", "prompt", "output"),
    [("llm-d-prefill-heavy", 4000, 1000), ("llm-d-decode-heavy", 1000, 4000), ("llm-d-symmetric", 1000, 1000)],
)
def test_the_shapes_of_llm_d_are_as_published(name: str, prompt: int, output: int) -> None:
    batch = beginning(name)
    assert set(batch.prompt_tokens.tolist()) == {prompt}
    assert set(batch.output_tokens.tolist()) == {output}
    assert batch.arrival_s[-1] < 600
    assert len(batch) == pytest.approx(12_000, rel=0.05)  # Poisson: 5 sd are 4.6 %
    assert 100 <= (read_scenario(Path(name)).lead_time_s or 0) <= 139


def test_the_steps_of_llm_d_are_as_published() -> None:
    counts = np.bincount((beginning("llm-d-steps").arrival_s / 150).astype(int))
    rates = np.array([15, 2, 10, 15, 5, 2])
    assert np.abs(counts / 150 - rates).max() < 5 * np.sqrt(15 / 150)


def test_a_scenario_of_ones_own_may_bring_a_load(tmp_path: Path) -> None:
    path = write_text(
        tmp_path / "mine.yaml",
        "workload:",
        "  segments: [{for_s: 60, requests_per_s: 5}, {for_s: 60, requests_per_s: 5, to_requests_per_s: 0}]",
        "  repeat: 2",
        "  token_shape: fixed:50/10",
        "steps: ['shift:30']",
        "profiles: [llama-3.1-8b-h100-tp1]",
        "lead_time_s: 77",
        "max_replicas: 9",
        "ttft_s: 3",
    )
    (job,) = jobs_of([], ["hpa"], [0], {**NO_OPTIONS, "scenario": path})
    assert job.trace.name == "mine"
    assert job.settings.lead_time_s == 77
    assert job.settings.policy.objective.ttft_s == 3
    assert [pool.max_replicas for pool in job.settings.pools.values()] == [9]
    got = all_requests(job.trace.open(job.settings).trace)
    assert got.arrival_s[0] >= 30
    assert len(got) == pytest.approx(2 * 450, rel=0.17)
    # What the command line says wins.
    (job,) = jobs_of([], ["hpa"], [0], {**NO_OPTIONS, "scenario": path, "lead_time_s": 5.0, "max_replicas": 3})
    assert job.settings.lead_time_s == 5
    assert [pool.max_replicas for pool in job.settings.pools.values()] == [3]


def test_a_trace_takes_the_place_of_a_scenarios_load_but_not_of_its_steps(tmp_path: Path) -> None:
    trace = write_text(tmp_path / "t.csv", "arrival_s,prompt_tokens,output_tokens", "0,7,7", "4,7,7")
    path = write_text(tmp_path / "s.yaml", "workload: {segments: [{for_s: 9, requests_per_s: 5}]}", "steps: ['warp:2']")
    (job,) = jobs_of([trace], ["hpa"], [0], {**NO_OPTIONS, "scenario": path})
    assert all_requests(job.trace.open(job.settings).trace).arrival_s.tolist() == [0, 8]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workload: {}", ("workload", "exactly one of", "none")),
        ("workload: {trace: a.csv, sessions: {}}", ("exactly one of", "sessions, trace")),
        ("workload: {segments: []}", ("workload.segments",)),
        ("workload: {segments: [{for_s: 0, requests_per_s: 1}]}", ("workload.segments.0.for_s",)),
        ("workload: {segments: [{for_s: 60, requests_per_s: -1}]}", ("workload.segments.0.requests_per_s",)),
        ("workload: {segments: [{for_s: 60, requests_per_s: .nan}]}", ("requests_per_s",)),
        ("workload: {segments: [{for_s: 60, requests_per_s: 0}]}", ("no segment has any load",)),
        ("workload: {segments: [{for_s: 1.5, requests_per_s: 1}]}", ("no whole number of steps",)),
        ("workload: {segments: [{for_s: 1e8, requests_per_s: 1}]}", ("too long",)),
        ("workload: {segments: [{for_s: 60, requests_per_s: 1}], token_shape: poetry}", ("poetry", "lognormal")),
        ("workload: {segments: [{for_s: 60, requests_per_s: 1}], arrivals: never}", ("never", "poisson")),
        ("workload: {segments: [{for_s: 60, requests_per_s: 1}], magic: 1}", ("workload.magic", "no such setting")),
        ("workload: {segments: [{for_s: 60, requests_per_s: 1}], step_s: 5e-324}", ("too long",)),
        ('workload: {trace: "a\\0b"}', ("no such file",)),
        ("workload: {trace: nowhere.csv}", ("nowhere.csv", "no such file")),
        ("steps: [warp]", ("step 'warp'", "missing")),
        ("steps: warp:2", ("must be a list",)),
        ("lead_time_s: 0", ("lead_time_s",)),
        ("profiles: [gpt-9]", ("gpt-9",)),
    ],
)
def test_a_scenario_that_is_wrong_is_refused(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = write_text(tmp_path / "s.yaml", text)
    with pytest.raises(BadInput) as caught:
        [job.trace.open(job.settings) for job in jobs_of([], ["hpa"], [0], {**NO_OPTIONS, "scenario": path})]
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "place", "remedy"),
    [
        ("lead_time_s: 60\nfaults:\n  - crash@9\n  - 3\n", "s.yaml:4:5", "write for example faults: [crash@600]"),
        ("lead_time_s: 60\nmin_replicas: -1\n", "s.yaml:2:1", "As for --min."),
        ("lead_time_s: 60\nfalts: []\n", "s.yaml:2:1", "known here: description"),
    ],
)
def test_what_is_wrong_in_a_scenario_is_told_with_its_line(tmp_path: Path, text: str, place: str, remedy: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_scenario(path)
    assert caught.value.where.endswith(place)
    assert remedy in caught.value.remedy


def test_an_unknown_scenario_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadInput) as caught:
        read_scenario(Path("llm-d-magic"))
    assert "llm-d-prefill-heavy" in caught.value.remedy


# Sessions.


def sessions(seed: int = 0, **changes: object) -> RequestBatch:
    settings = SessionSettings.model_validate({"sessions_per_s": 2.0, "duration_s": 900.0, **changes})
    return all_requests(SessionTrace("s", settings, token_shape_named("lognormal:300/200"), seed))


def test_turns_share_all_full_blocks_of_the_turn_before_and_only_those() -> None:
    batch = sessions()
    assert batch.session is not None
    last: dict[int, tuple[int, tuple[int, ...]]] = {}
    followed = 0
    for session, prompt, hashes in zip(
        batch.session.tolist(), batch.prompt_tokens.tolist(), list(batch.block_hashes or ()), strict=True
    ):
        assert len(hashes) == -(-prompt // 512)
        if session in last:
            before, known = last[session]
            full = before // 512
            assert prompt > before
            assert hashes[:full] == known[:full]
            assert hashes[full:][:1] != known[full:][:1]
            followed += 1
        last[session] = (prompt, hashes)
    assert followed > 1000


def test_sessions_share_their_system_prompt_and_nothing_else() -> None:
    batch = sessions(system_tokens=1024, system_prompts=2)
    assert batch.session is not None
    firsts = dict(zip(batch.session.tolist(), list(batch.block_hashes or ()), strict=True))
    assert {len({h[place] for h in firsts.values()}) for place in (0, 1)} == {2}
    assert len({h[2] for h in firsts.values()}) == len(firsts)


def test_sessions_are_under_way_when_the_trace_begins() -> None:
    counts = np.bincount((sessions(sessions_per_s=5.0).arrival_s / 60).astype(int))
    # 5 sessions/s of 4 turns: 1200 a minute from the first one on; sd 35 and clumps of turns.
    assert counts == pytest.approx(np.full(15, 1200), abs=200)


def test_one_seed_gives_the_same_sessions_and_another_does_not() -> None:
    one, again, other = sessions(1), sessions(1), sessions(2)
    assert digest(one) == digest(again) != digest(other)
    assert not set(next(iter(one.block_hashes or ()))) & set(next(iter(other.block_hashes or ())))


def test_no_prompt_is_longer_than_the_most() -> None:
    assert sessions(most_prompt_tokens=2500).prompt_tokens.max() <= 2500
