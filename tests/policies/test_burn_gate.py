"""Does latency alone need a budget that burns before it costs anybody anything, and does nothing else ever?"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from pydantic import ValidationError

from policies.burn import Burn
from policies.burn_gate import DEFAULT_GATE, GatedAct, soft, why_not_for_latency
from policies.causes import CAUSES
from policies.decisions import Diagnosis, RestartReplica, RollBack
from policies.healing_memory import CordonMemory
from policies.healing_settings import HealingSettings
from policies.ledger import Ledger
from policies.memory import PoolMemory, RevisionMemory
from tests.builders import AT, KEY, MODEL, fleet
from tests.builders_playbooks import A0, BAD, HANG, a_ledger, some

SLOW = Diagnosis("F8", "a0", KEY, AT - 60.0, ("latency", "peers"), "it is slow", name="straggler")
SLOW_REVISION = replace(BAD, families=("cohort", "latency", "revision"), sentence="it is slow")
FULL = Diagnosis("F7", "", KEY, AT - 60.0, ("queue", "throughput"), "it is full", scope="pool", name="overload")
LASTS, COMING = Burn(1.0, 0.5, 0.8, 0.2), Burn(50.0, 9.0, 9.0, 1.0, about_to=True)
BURNS = replace(COMING, burning=True)
EVERYTHING: tuple[GatedAct, ...] = get_args(GatedAct)
GATED = HealingSettings(burn_gate=EVERYTHING)


@pytest.mark.parametrize(
    ("diagnosis", "so"),
    [
        (SLOW, True),
        (SLOW_REVISION, True),
        (FULL, True),
        (replace(SLOW, families=(), name=""), True),  # taken over from the books
        (HANG, False),
        (replace(SLOW_REVISION, families=("answers", "cohort", "latency", "revision")), False),
        (replace(SLOW, families=("latency", "peers", "unreached")), False),
        (replace(BAD, families=("cohort", "platform", "revision")), False),
        (BAD, False),
    ],
)
def test_evidence_is_soft_when_nothing_but_latency_speaks(diagnosis: Diagnosis, so: bool) -> None:
    assert soft(diagnosis) is so


def test_no_other_cause_is_ever_held_whatever_its_evidence() -> None:
    others = set(CAUSES) - {"straggler", "overload", "preemption-storm", "bad-revision"}
    for name in others:
        why = replace(HANG, name=name, cause=CAUSES[name].code, families=("latency", "peers"))
        assert not why_not_for_latency("restart", why, None, EVERYTHING)


@pytest.mark.parametrize("act", EVERYTHING)
def test_it_is_held_until_the_budget_burns_or_is_about_to(act: GatedAct) -> None:
    assert not why_not_for_latency(act, SLOW, BURNS, EVERYTHING)
    assert not why_not_for_latency(act, SLOW, COMING, EVERYTHING)
    assert "0.8 x of 14.4 x over 1 h" in why_not_for_latency(act, SLOW, LASTS, EVERYTHING)


@pytest.mark.parametrize("act", EVERYTHING)
def test_missing_figures_do_not_open_it(act: GatedAct) -> None:
    assert "no service level is measured" in why_not_for_latency(act, SLOW, None, EVERYTHING)


def test_only_acts_of_the_settings_are_held() -> None:
    assert not why_not_for_latency("restart", SLOW, LASTS, ())
    assert DEFAULT_GATE == HealingSettings().burn_gate == ("restart", "fail over")
    with pytest.raises(ValidationError, match="roll back"):
        HealingSettings(burn_gate=("rollback",))


# at the gate


def restarts(ledger: Ledger, why: Diagnosis = SLOW) -> str:
    answer = ledger.restart(ledger.fleet.pools[0], ledger.fleet.pools[0].replicas[0], why, 200.0)
    assert (answer is None) == (ledger.remedies == [RestartReplica("a0", KEY, why.cause)])
    return answer.rule if answer else ""


OUT = {A0: CordonMemory(AT - 60.0, "F8", "a0#0")}


def test_a_restart_that_ends_requests_needs_a_budget_that_burns() -> None:
    state = fleet(some(cordoned=True, in_flight_requests=2.0))
    assert restarts(a_ledger(state, cordons=OUT, burn={MODEL: LASTS})) == "error budget"
    assert restarts(a_ledger(state, cordons=OUT)) == "error budget"
    assert restarts(a_ledger(state, cordons=OUT, burn={MODEL: COMING})) == ""
    assert restarts(a_ledger(state, cordons=OUT), HANG) == ""


def test_a_restart_of_what_serves_nobody_needs_none() -> None:
    empty = fleet(some(cordoned=True, in_flight_requests=0.0))
    assert restarts(a_ledger(empty, cordons=OUT)) == ""
    assert restarts(a_ledger(empty, cordons=OUT, fresh=())) == "error budget"  # who knows what is inside
    assert restarts(a_ledger(empty)) == "error budget"  # somebody else's cordon
    in_traffic = fleet(some(in_flight_requests=0.0))
    assert restarts(a_ledger(in_traffic, cordons=OUT)) == "error budget"


@pytest.mark.parametrize("gate", [DEFAULT_GATE, EVERYTHING])
def test_a_cordon_needs_it_where_the_settings_say_so(gate: tuple[GatedAct, ...]) -> None:
    ledger = a_ledger(settings=HealingSettings(burn_gate=gate), burn={MODEL: LASTS})
    pool = ledger.fleet.pools[0]
    answer = ledger.cordon(pool, pool.replicas[0], SLOW)
    assert (answer.rule if answer else "") == ("error budget" if "cordon" in gate else "")
    assert ledger.waiting == set()  # nothing is asked for in its place
    assert ledger.cordon(pool, pool.replicas[1], HANG) is None


def test_a_slow_revision_is_kept_where_the_settings_say_so_and_a_human_told() -> None:
    known = {str(KEY): PoolMemory(revisions={"0": RevisionMemory(AT - 9e4, 9e4, AT), "1": RevisionMemory(AT - 600.0)})}
    state = fleet(replace(some(), revision="1", revisions=("0", "1"), paused=True))

    def rolled_back(why: Diagnosis, burn: Burn, settings: HealingSettings) -> tuple[bool, int]:
        ledger = a_ledger(state, settings, known=known, burn={MODEL: burn})
        ledger.roll_back(ledger.fleet.pools[0], why, 500.0)
        return ledger.remedies == [RollBack(KEY, "0", "1", "F3")], len(ledger.pages)

    assert rolled_back(SLOW_REVISION, LASTS, GATED) == (False, 1)
    assert rolled_back(SLOW_REVISION, BURNS, GATED) == (True, 0)
    assert rolled_back(BAD, LASTS, GATED) == (True, 0)
    assert rolled_back(SLOW_REVISION, LASTS, HealingSettings()) == (True, 0)


def test_no_pool_is_given_up_for_latency_alone_while_no_budget_burns() -> None:
    def held(why: Diagnosis, burn: Burn) -> frozenset[str]:
        ledger = a_ledger(settings=HealingSettings(), burn={MODEL: burn})
        return ledger.permitted(ledger.fleet.pools[0], why, frozenset({"traffic", "shrinking"}))

    assert held(FULL, LASTS) == {"shrinking"}
    assert held(FULL, BURNS) == {"traffic", "shrinking"}
    assert held(HANG, LASTS) == {"traffic", "shrinking"}
