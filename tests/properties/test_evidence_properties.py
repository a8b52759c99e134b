"""Has every piece of evidence an age and a coverage that can be, whatever the fleet went through?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from policies.anomaly import AnomalySettings
from policies.canary_evidence import CanarySettings
from policies.decide import decide
from policies.decisions import Decision
from policies.fleet import FleetState, NodeState, Phase, PoolState, ReplicaState
from policies.memory import PolicyMemory
from policies.replica import CanaryAnswer, CanaryOutcome
from policies.wire import canonical_json
from tests.builders import AT, KEY, OTHER, demand, fleet, forecast, metrics, pool, settings

TICK_S, LOOKS = 15.0, 48
NODES = ("n0", "n1", "n2")

often = hypothesis_settings(max_examples=8, deadline=None)


class RandomHistory:
    """Two pools whose replicas hang, fail, slow down, exit and say nothing, each from some look on for a while."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._calm = self._rng.uniform(0.5, 1.0)
        self._troubles: dict[str, tuple[str, int]] = {}
        self._counts: dict[str, dict[str, float]] = {}
        self._last: dict[str, ReplicaState] = {}
        self._asked: dict[str, CanaryAnswer] = {}
        self._everywhere = ""

    def fleets(self) -> Iterator[FleetState]:
        """Yield the fleet look by look."""
        for look in range(LOOKS):
            at = AT + TICK_S * look
            if look % 12 == 0:
                self._everywhere = str(self._rng.choice(["", "", "queue", "storm", "unreached", "silent", "dumb"]))
            pools = [self._pool(key, look, at) for key in (KEY, OTHER)]
            load = {KEY.model: demand(40.0 if look >= 40 else float(self._rng.uniform(7.0, 9.0)))}
            load = load if self._often() else {}
            xid = 79.0 if self._rng.random() < 0.1 else 0.0 if self._rng.random() < 0.5 else math.nan
            nodes = {name: NodeState(self._often(), AT - 9000.0, xid=xid) for name in NODES}
            yield fleet(*pools, at=at, demand=load, nodes=nodes, canaries=dict(self._asked))

    def answer(self, decision: Decision) -> None:
        """Let each canary come to something, or to nothing."""
        for sent in decision.canaries:
            outcome = self._rng.choice([*CanaryOutcome, CanaryOutcome.LATE, CanaryOutcome.LATE])
            if self._often():
                answer = CanaryAnswer(sent.asked_at, CanaryOutcome(outcome))
                self._asked[sent.pool.replica(sent.replica)] = answer

    def _often(self) -> bool:
        return bool(self._rng.random() < self._calm)

    def _pool(self, key: Any, look: int, at: float) -> PoolState:
        there = [self._replica(f"{key.pool}{place}", look, at) for place in range(7)]
        newest = replace(pool(there, key), revision="2", revision_at=AT + 150.0, revisions=("1", "2"))
        return replace(newest, replicas=tuple(there))

    def _replica(self, name: str, look: int, at: float) -> ReplicaState:
        trouble, until = self._troubles.get(name, ("", 0))
        if look >= until:
            words = (
                "hang",
                "slow",
                "errors",
                "exit",
                "silent",
                "unreached",
                "queue",
                "reset",
                "gpu",
                "idle",
                "idle",
                "dumb",
            )
            trouble = "" if self._often() else str(self._rng.choice(words))
            self._troubles[name] = trouble, look + int(self._rng.integers(2, 16))
        if self._everywhere:
            trouble = self._everywhere
        counts = self._counts.setdefault(name, dict.fromkeys(_GROWING, 1e4))
        if trouble == "reset" and self._rng.random() < 0.3:
            counts.update(dict.fromkeys(_GROWING, 0.0))
        if trouble not in ("hang", "idle", "exit", "unreached"):
            for figure in _GROWING:
                counts[figure] += float(self._rng.integers(250, 350))
        counts["failed"] = counts.get("failed", 0.0) + (200.0 if trouble == "errors" else 0.0)
        counts["unreached"] = counts.get("unreached", 0.0) + (20.0 if trouble == "unreached" else 0.0)
        made = self._said(name, trouble, counts, at)
        before = self._last.get(name)
        if before is not None and trouble in ("silent", "exit"):
            made = replace(made, metrics=before.metrics)
        self._last[name] = made
        return made

    def _said(self, name: str, trouble: str, counts: dict[str, float], at: float) -> ReplicaState:
        busy = 0.0 if trouble == "idle" else 10.0
        told = metrics(
            at - float(self._rng.uniform(0.0, 3.0) if self._often() else self._rng.uniform(-20.0, 20.0)),
            running_requests=busy,
            queued_requests=200.0 if trouble in ("queue", "storm") else 0.0,
            kv_cache_ratio=1.0 if trouble == "storm" else 0.5,
            tpot_mean_s=0.5 if trouble == "slow" else float(self._rng.uniform(0.03, 0.035)),
            failed_requests_total=counts["failed"],
            preemptions_total=counts["steps_total"] if trouble == "storm" else 0.0,
            aborted_requests_total=counts["failed"],
            gpu_xid=79.0 if trouble == "gpu" else 0.0,
            gpu_clock_ratio=0.3 if trouble == "slow" else 0.9,
            **{figure: counts[figure] for figure in _GROWING},
        )
        dumb = trouble == "dumb"
        return ReplicaState(
            name,
            Phase.FAILED if trouble == "exit" else Phase.READY,
            AT - 4000.0,
            at - 90.0 if trouble == "exit" else AT - 3600.0,
            revision=str(1 + int(name[-1]) % 2),
            node=NODES[int(name[-1]) % 3],
            in_flight_requests=math.nan if dumb else busy,
            metrics=None if dumb else told,
            answered_requests_total=math.nan if dumb else counts["finished_requests_total"],
            failed_answers_total=math.nan if dumb else counts["failed"],
            unreached_requests_total=math.nan if dumb else counts["unreached"],
            address=f"{name}:8000",
        )


_GROWING = ("steps_total", "prompt_tokens_total", "output_tokens_total", "finished_requests_total")


def decisions(seed: int) -> Iterator[Decision]:
    """Yield what is decided in a random world, look by look, from memory that went through JSON."""
    history, memory = RandomHistory(seed), PolicyMemory()
    chosen = settings(KEY, OTHER, anomaly=AnomalySettings(canary=CanarySettings(enabled=True, silent_s=30.0)))
    for state in history.fleets():
        decision = decide(state, {KEY.model: forecast(8.0, at=state.at)}, memory, chosen)
        history.answer(decision)
        memory = PolicyMemory.from_json(decision.memory.to_json())
        yield decision


@often
@given(st.integers(0, 10**6))
def test_all_evidence_of_a_random_world_has_an_age_and_a_coverage(seed: int) -> None:
    for decision in decisions(seed):
        for anomaly in decision.anomalies:
            assert 0.0 <= anomaly.age_s < math.inf, anomaly
            assert 0.0 <= anomaly.coverage_ratio <= 1.0, anomaly
        for written in json.loads(canonical_json(decision))["anomalies"]:
            assert None not in written.values()
        strong = {(a.pool, a.replica, a.family) for a in decision.anomalies if a.counts}
        for found in decision.diagnoses:
            believed = {(found.pool, found.subject, family) for family in found.families}
            assert believed <= strong or (found.name == "unknown" and not believed & strong)


def test_random_worlds_show_evidence_of_every_kind_of_source() -> None:
    shown = {anomaly.family for seed in range(8) for decision in decisions(seed) for anomaly in decision.anomalies}
    engines = {"progress", "peers", "exporter", "counters", "clock"}
    gateway = {"gateway", "answers", "cohort", "unreached"}
    others = {"platform", "gpu", "canary", "unscraped", "answering", "queue", "preemptions", "store"}
    assert shown >= engines | gateway | others
