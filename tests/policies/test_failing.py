"""Does an error count against a replica when it is the replica's own, and against none when it is everybody's?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from policies.anomaly import AnomalySettings, Watch, watch
from policies.failing_settings import FailingSettings
from policies.fleet import Phase, ReplicaState
from policies.lead_time import LeadTime
from policies.memory import AnswerMemory, ReplicaMemory
from tests.builders import AT, KEY, OTHER, fleet, metrics, pool, replica

SETTINGS = AnomalySettings()
FAILING = SETTINGS.failing
LEAD = {str(key): LeadTime(80.0, 100.0, 5, measured=True) for key in (KEY, OTHER)}
NAN = math.nan
ALL = {"answers", "errors", "cohort"}


class Counters:
    """Replicas whose answers are counted, look by look, by the gateway and by themselves."""

    def __init__(self, names: Sequence[str], elsewhere: str = "", *, gateway: bool = True, itself: bool = True) -> None:
        self.elsewhere = elsewhere
        self.totals = dict.fromkeys(names, (1000.0, 50.0))
        self.gateway, self.itself = gateway, itself
        self.at = AT
        self.memory: Mapping[str, ReplicaMemory] = {}
        self.phases = dict.fromkeys(names, Phase.READY)
        self.seen = Watch((), {})

    def look(self, *shares: float, ended: float = 20.0, after_s: float = 15.0) -> Watch:
        """Let each replica end so many requests, of which a share fails; NaN lets it end none."""
        self.at += after_s
        for name, share in zip(self.totals, shares, strict=True):
            good, bad = self.totals[name]
            if not math.isnan(share):
                self.totals[name] = (good + round(ended * (1.0 - share)), bad + round(ended * share))
        return self.read()

    def read(self) -> Watch:
        here, there = (
            [self.state(name) for name in self.totals if (name in self.elsewhere) is other] for other in (False, True)
        )
        state = fleet(pool(here), *([pool(there, OTHER)] if there else []), at=self.at)
        self.seen = watch(state, self.memory, LEAD, SETTINGS)
        self.memory = self.seen.memory
        return self.seen

    def state(self, name: str) -> ReplicaState:
        good, bad = self.totals[name]
        steps = 1000.0 + self.at - AT
        own = (good, bad) if self.itself else (good, NAN)
        return replica(
            name,
            self.phases[name],
            metrics=metrics(self.at, steps_total=steps, finished_requests_total=own[0], failed_requests_total=own[1]),
            answered_requests_total=good if self.gateway else NAN,
            failed_answers_total=bad if self.gateway else NAN,
        )

    def families(self, name: str = "a") -> set[str]:
        return {one.family for one in self.seen.anomalies if one.replica == name}


def after(looks: Sequence[Sequence[float]], names: str = "abc", **kinds: bool) -> Counters:
    counters = Counters(names, **kinds)
    counters.look(*[0.0] * len(names))
    for shares in looks:
        counters.look(*shares)
    return counters


def test_a_replica_that_fails_what_its_peers_answer_gathers_evidence_after_three_looks() -> None:
    burst = [(0.8, 0.0, 0.0)] * 3
    assert after(burst[:2]).families() == {"answers", "errors"}
    found = after(burst)
    assert found.families() == ALL
    assert found.families("b") == found.families("c") == set()
    assert {one.since_at for one in found.seen.anomalies} == {AT + 30.0}
    (cohort, *_) = [one for one in found.seen.anomalies if one.family == "cohort"]
    assert cohort.detail == "2 of 2 peers with the same requests fail far fewer"


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8, 1.0])
def test_errors_alike_on_all_replicas_are_nobodys_fault(share: float) -> None:
    counters = Counters("abcd")
    for _ in range(40):
        counters.look(*[share] * 4)
        assert not any(one.family == "cohort" for one in counters.seen.anomalies)


def test_an_outage_behind_all_replicas_that_begins_and_ends_is_nobodys_fault() -> None:
    counters = after([(0.0,) * 4] * 5 + [(1.0,) * 4] * 4 + [(0.0,) * 4] * 10, "abcd")
    assert all(not known.by_gateway.worse_at for known in counters.memory.values() if known.by_gateway)


def test_most_peers_must_do_better() -> None:
    assert after([(0.8, 0.8, 0.0, 0.0)] * 5, "abcd").families() == ALL
    assert after([(0.8, 0.8, 0.8, 0.0, 0.0)] * 5, "abcde").families() == {"answers", "errors"}


def test_one_peer_with_the_same_requests_is_enough_and_none_is_not() -> None:
    assert after([(0.8, 0.0)] * 4, "ab").families() == ALL
    assert after([(0.8,)] * 9, "a").families() == {"answers", "errors", "record"}


def test_a_peer_that_answers_nothing_says_nothing() -> None:
    silent = Counters("ab")
    for _ in range(6):
        silent.look(0.8, NAN)
    assert silent.families() == {"answers", "errors", "record"}


def test_who_is_alone_and_has_always_failed_so_much_has_nothing_on_record() -> None:
    alone = Counters("a")
    alone.totals["a"] = (800.0, 200.0)
    for _ in range(20):
        alone.look(0.25)
    assert alone.families() == {"answers", "errors"}


def test_a_record_is_no_evidence_any_more_once_a_peer_has_answered_in_the_same_time() -> None:
    counters = Counters("ab")
    counters.look(0.0, NAN)
    for _ in range(6):
        counters.look(0.8, NAN)
    assert counters.families() == {"answers", "errors", "record"}
    for _ in range(6):
        counters.look(0.8, 0.8)
        assert counters.families() == {"answers", "errors"}
    for _ in range(30):  # and it is gone again
        counters.look(0.8, NAN)
        assert counters.families() == {"answers", "errors"}


def test_a_burst_that_ends_is_forgotten() -> None:
    counters = after([(0.8, 0.0, 0.0)] * 3 + [(0.0, 0.0, 0.0)] * 12)
    assert counters.seen.anomalies == ()
    assert counters.memory[KEY.replica("a")].by_gateway.worse_at == ()  # type: ignore[union-attr]


def test_a_few_errors_are_no_burst() -> None:
    rare = Counters("abc")
    for _ in range(11):
        rare.look(1.0, 0.0, 0.0, ended=1.0, after_s=15.0)
        assert rare.seen.anomalies == ()
    assert after([(0.15, 0.0, 0.0)] * 20).seen.anomalies == ()


def rarely(looks: int, names: str = "abcdefghij", every: int = 4, failing: Sequence[int] = (0, 3, 7)) -> Counters:
    """Each replica ends one request per look; of ``a`` some of every ten fail, after a quiet time."""
    counters = Counters(names)
    for _ in range(20):
        counters.look(*[0.0] * len(names), ended=float(every))
    for look in range(looks):
        counters.look(float(look % 10 in failing), *[0.0] * (len(names) - 1), ended=1.0, after_s=3.0)
    return counters


def test_three_errors_in_ten_at_little_load_are_told_with_patience() -> None:
    assert "cohort" not in rarely(30).families()
    found = rarely(90)
    assert found.families() == ALL
    assert found.memory[KEY.replica("a")].by_gateway.failed < 5.0  # type: ignore[union-attr]  # too few for the short one


def at_a_trickle(looks: int, share: float = 0.3, ratio_of_peers: float = 0.0, seed: int = 3) -> tuple[Counters, int]:
    """Each of four ends a request in three looks out of ten, a minute between them; return also when ``a`` was told."""
    drawn = np.random.default_rng(seed)
    counters, told = Counters("abcd"), 0
    for look in range(looks):
        shares = np.where(drawn.random(4) < [share, *[ratio_of_peers] * 3], 1.0, 0.0)
        counters.look(*np.where(drawn.random(4) < 0.3, shares, NAN).tolist(), ended=1.0, after_s=60.0)
        told = told or (look + 1) * ("cohort" in counters.families())
    return counters, told


@pytest.mark.parametrize("seed", range(6))
def test_a_trickle_of_errors_is_told_late_and_surely(seed: int) -> None:
    """Nothing with a half-life of minutes ever holds more than one such error."""
    counters, told = at_a_trickle(400, seed=seed)
    assert 40 <= told <= 400
    known = counters.memory[KEY.replica("a")].by_gateway
    assert known is not None
    assert known.failed < 5.0
    assert len(known.worse_at) <= FAILING.looks + 8


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6])
def test_a_trickle_of_errors_of_all_alike_singles_out_nobody(share: float) -> None:
    for seed in range(4):
        assert at_a_trickle(400, share, share, seed)[1] == 0


def test_a_run_of_errors_is_over_after_so_many_good_answers_in_a_row() -> None:
    counters = Counters("ab")
    counters.look(0.0, 0.0)
    counters.look(0.5, 0.0)
    counters.look(0.0, 0.0, ended=FAILING.run_ends_after - 1.0)
    known = counters.memory[KEY.replica("a")].by_gateway
    assert known is not None
    assert (known.run_failed, known.run_answered, known.peers_answered) == (10.0, 39.0, 49.0)
    assert known.run_at == AT + 30.0
    counters.look(0.0, 0.0, ended=1.0)
    known = counters.memory[KEY.replica("a")].by_gateway
    assert known is not None
    assert (known.run_level, known.run_failed, known.run_answered, known.run_at) == (0.0, 0.0, 0.0, None)


def test_with_a_single_peer_three_errors_in_ten_are_told_too() -> None:
    counters = after([(0.3, 0.0)] * 14, "ab")
    assert counters.families() == ALL


def test_what_was_counted_for_long_and_is_over_convicts_nobody() -> None:
    counters = rarely(60)
    for look in range(40):
        counters.look(*[0.0] * 10, ended=1.0, after_s=3.0)
        assert look < 5 or "cohort" not in counters.families()


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_errors_by_chance_at_little_load_single_out_nobody(share: float) -> None:
    drawn = np.random.default_rng(7)
    counters = Counters("abcdefghij")
    for _ in range(300):
        counters.look(*(drawn.random(10) < share).astype(float), ended=1.0, after_s=5.0)
        assert not any(one.family == "cohort" for one in counters.seen.anomalies)


def test_peers_of_other_pools_of_the_model_are_heard() -> None:
    counters = Counters("ab", elsewhere="b")
    for _ in range(5):
        counters.look(0.8, 0.0)
    assert counters.families() == ALL


@pytest.mark.parametrize(
    ("kinds", "families"),
    [({"itself": False}, {"answers", "cohort"}), ({"gateway": False}, {"errors", "cohort"})],
)
def test_each_witness_speaks_for_itself(kinds: dict[str, bool], families: set[str]) -> None:
    assert after([(0.8, 0.0, 0.0)] * 3, **kinds).families() == families


def test_counters_that_nobody_gives_are_no_evidence() -> None:
    assert after([(1.0, 0.0, 0.0)] * 20, gateway=False, itself=False).seen.anomalies == ()


def test_a_counter_that_is_told_for_the_first_time_is_no_burst() -> None:
    """All that failed in its life would look as if it had failed just now."""
    counters = Counters("abc", gateway=False, itself=False)
    counters.totals["a"] = (1000.0, 900.0)
    for _ in range(3):
        counters.look(0.0, 0.0, 0.0)
    counters.gateway = counters.itself = True
    for _ in range(6):
        counters.look(0.0, 0.0, 0.0)
        assert counters.seen.anomalies == ()


def test_a_counter_that_begins_anew_is_no_burst() -> None:
    counters = after([(0.0, 0.0, 0.0)] * 3)
    counters.totals["a"] = (0.0, 0.0)
    counters.look(0.0, 0.0, 0.0)
    for name, known in counters.memory.items():
        assert known.by_gateway is not None
        assert (known.by_gateway.failed, known.by_gateway.answered > 0) == (0.0, name != KEY.replica("a"))
    counters.look(0.0, 0.0, 0.0)
    assert counters.seen.anomalies == ()


def test_counts_that_come_back_after_a_long_silence_begin_anew() -> None:
    counters = after([(0.0, 0.0, 0.0)] * 2)
    counters.look(1.0, 0.0, 0.0, ended=500.0, after_s=FAILING.look_back_s + 1.0)
    assert counters.seen.anomalies == ()
    known = counters.memory[KEY.replica("a")].by_gateway
    assert known == AnswerMemory(1040.0 + 20.0, 550.0, counters.at)


def test_counts_that_went_silent_during_a_burst_are_no_evidence_any_more() -> None:
    counters = after([(0.8, 0.0, 0.0)] * 4)
    counters.gateway = counters.itself = False
    counters.at += FAILING.max_age_s
    assert counters.read().anomalies != ()
    counters.at += 1.0
    assert counters.read().anomalies == ()


def test_a_look_that_says_nothing_new_counts_for_nothing() -> None:
    counters = after([(1.0, 0.0, 0.0)] * 2)
    for _ in range(3):
        counters.look(NAN, NAN, NAN, after_s=1.0)
    assert "cohort" not in counters.families()


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.FAILED, Phase.LOADING])
def test_only_what_is_ready_is_judged(phase: Phase) -> None:
    counters = after([(0.8, 0.0, 0.0)] * 3)
    counters.phases["a"] = phase
    counters.look(0.8, 0.0, 0.0)
    assert not counters.families() & ALL


def test_answers_count_half_after_each_half_life() -> None:
    counters = Counters("ab")
    counters.look(0.5, 0.0, ended=20.0)
    counters.look(0.5, 0.0, ended=20.0)
    counters.look(NAN, NAN, after_s=FAILING.half_life_s)
    known = counters.memory[KEY.replica("a")].by_gateway
    assert known is not None
    assert (known.answered, known.failed) == (5.0, 5.0)
    assert known.failed_ratio == 0.5
    assert AnswerMemory(1.0, 1.0, AT).failed_ratio == 0.0


def test_the_settings_mean_what_they_say() -> None:
    assert FailingSettings().looks * 15.0 <= FailingSettings().look_back_s  # ticks of the default fit the look-back
