"""Are faults read as written, and bad ones refused in words?"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from controller.errors import BadInput
from simulations.fault_syntax import SYNTAX, parse_fault
from simulations.faults import (
    ColdStarts,
    CounterReset,
    Crash,
    Errors,
    ExporterFreeze,
    Fault,
    Hang,
    KvShrink,
    MetricLoss,
    MetricsFreeze,
    MetricsLoss,
    NodeLoss,
    OutOfMemory,
    Partition,
    Poison,
    Reclaim,
    ReplicaTarget,
    Retries,
    Rollout,
    SlowDown,
    StartFailures,
    StockOut,
    XidError,
)
from simulations.revisions import CrashesAfter, CrashesAtStart, Fine, HangsAfter, HasErrors, IsSlow


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("crash@600:pool=a100,replica=1", Crash(600.0, ReplicaTarget("a100", 1))),
        ("crash@0", Crash(0.0)),
        ("hang@900:replica=2", Hang(900.0, ReplicaTarget("", 2))),
        ("hang@900:running=zero", Hang(900.0, running_zero=True)),
        ("hang@900:running=stuck", Hang(900.0)),
        ("slow@1200:factor=2.5,duration=300", SlowDown(1200.0, factor=2.5, duration_s=300.0)),
        ("slow@1200", SlowDown(1200.0, factor=3.0, duration_s=math.inf)),
        ("errors@60:share=0.8,duration=90,replica=1", Errors(60.0, ReplicaTarget("", 1), 0.8, 90.0)),
        ("errors@60", Errors(60.0)),
        ("node-loss@10.5:pool=b", NodeLoss(10.5, ReplicaTarget("b"))),
        ("reclaim@60:pool=b,replica=1,notice=30", Reclaim(60.0, ReplicaTarget("b", 1), notice_s=30.0)),
        ("reclaim@60:node=b-node-2", Reclaim(60.0, node="b-node-2", notice_s=120.0)),
        ("stock-out@60:pool=b,duration=90", StockOut(60.0, ReplicaTarget("b"), 90.0)),
        ("stock-out@60", StockOut(60.0, duration_s=math.inf)),
        ("metrics-loss@60:duration=90", MetricsLoss(60.0, None, 90.0)),
        ("metrics-loss@60:replica=1,duration=90", MetricsLoss(60.0, ReplicaTarget("", 1), 90.0)),
        ("metrics-freeze@60", MetricsFreeze(60.0)),
        ("exporter-freeze@60:replica=1,duration=90", ExporterFreeze(60.0, ReplicaTarget("", 1), 90.0)),
        ("exporter-freeze@60", ExporterFreeze(60.0)),
        ("hang@900:duration=40", Hang(900.0, duration_s=40.0)),
        ("slow@60:clock=0.4", SlowDown(60.0, clock_ratio=0.4)),
        ("node-loss@10:grace=40", NodeLoss(10.0, grace_s=40.0)),
        ("xid@10:replica=1,code=63", XidError(10.0, ReplicaTarget("", 1), 63)),
        ("xid@10:exits=yes", XidError(10.0, code=79, exits=True)),
        ("rollout@10", Rollout(10.0, behaviour=Fine())),
        (
            "rollout@10:pool=b,revision=blue,behaviour=crash",
            Rollout(10.0, ReplicaTarget("b"), "blue", CrashesAtStart()),
        ),
        ("rollout@10:behaviour=crash-after,after=5", Rollout(10.0, behaviour=CrashesAfter(5.0))),
        ("rollout@10:behaviour=slow,factor=2", Rollout(10.0, behaviour=IsSlow(2.0))),
        ("rollout@10:behaviour=errors", Rollout(10.0, behaviour=HasErrors(0.5))),
        ("rollout@10:behaviour=hang,after=9", Rollout(10.0, behaviour=HangsAfter(9.0))),
        ("start-failures@10:duration=60", StartFailures(10.0, duration_s=60.0)),
        ("start-failures@10:reason=ImagePullBackOff", StartFailures(10.0, reason="ImagePullBackOff")),
        ("out-of-memory@10:pool=b,ratio=0.8", OutOfMemory(10.0, ReplicaTarget("b", None), 0.8)),
        ("kv-shrink@10:kept=0.2,duration=60", KvShrink(10.0, ReplicaTarget("", None), 0.2, 60.0)),
        ("kv-shrink@10:replica=2", KvShrink(10.0, ReplicaTarget("", 2), 0.1)),
        ("partition@10:pool=b", Partition(10.0, ReplicaTarget("b", None))),
        ("partition@10:replica=0,duration=5", Partition(10.0, ReplicaTarget("", 0), 5.0)),
        ("metric-loss@10:metric=queued_requests,duration=5", MetricLoss(10.0, "queued_requests", 5.0)),
        ("counter-reset@10:replica=1", CounterReset(10.0, ReplicaTarget("", 1))),
        ("retries@10:times=5,backoff=0.5,duration=60", Retries(10.0, 5, 0.5, 60.0)),
        ("cold-starts@10:factor=2,lasting=30", ColdStarts(10.0, ReplicaTarget("", None), 2.0, 30.0)),
        ("poison@10:times=1,prompt=64", Poison(10.0, 1, 64)),
    ],
)
def test_a_spec_is_read_as_written(spec: str, fault: Fault) -> None:
    assert parse_fault(spec) == fault


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("", "unknown kind of fault ''"),
        ("explode@5", "unknown kind of fault 'explode'; known: crash, hang"),
        ("crash", "no instant"),
        ("crash@", "instant must be a number, got ''"),
        ("crash@soon", "instant must be a number, got 'soon'"),
        ("crash@-1", "instant must be at least 0, got '-1'"),
        ("crash@nan", "instant must be at least 0, got 'nan'"),
        ("crash@inf", "instant must be at least 0, got 'inf'"),
        ("crash@5:replica", "'replica' is not KEY=VALUE"),
        ("crash@5:replica=", "'replica=' is not KEY=VALUE"),
        ("crash@5:replica=1.5", "replica must be a whole number, got '1.5'"),
        ("crash@5:replica=-1", "replica must be at least 0"),
        ("crash@5:factor=2", "unknown key 'factor'; known here: pool, replica"),
        ("crash@5:replica=1,replica=2", "'replica' is given twice"),
        ("hang@5:running=none", "running must be 'stuck' or 'zero', got 'none'"),
        ("slow@5:factor=1", "factor must be more than 1, got '1'"),
        ("errors@5:share=0", "share must be more than 0, got '0'"),
        ("errors@5:share=1.1", "share must be at most 1, got '1.1'"),
        ("slow@5:duration=0", "duration must be more than 0, got '0'"),
        ("reclaim@5:node=n,replica=1", "node is given, and pool or replica too"),
        ("reclaim@5:notice=-1", "notice must be at least 0, got '-1'"),
        ("stock-out@5:replica=1", "unknown key 'replica'; known here: duration, pool"),
        ("metrics-freeze@5:replica=1", "unknown key 'replica'; known here: duration"),
        ("hang@5:duration=-1", "duration must be more than 0, got '-1'"),
        ("slow@5:clock=1.5", "clock must be at most 1, got '1.5'"),
        ("node-loss@5:grace=-1", "grace must be at least 0, got '-1'"),
        ("xid@5:code=0", "code must be at least 1, got '0'"),
        ("xid@5:exits=maybe", "exits must be 'no' or 'yes', got 'maybe'"),
        ("rollout@5:behaviour=odd", "behaviour must be 'fine', 'crash', 'crash-after', 'slow', 'errors' or 'hang'"),
        ("rollout@5:behaviour=slow,after=3", "'after' says nothing of a revision that is 'slow'"),
        ("start-failures@5:reason=Tired", "reason must be 'CrashLoopBackOff' or 'ImagePullBackOff', got 'Tired'"),
        ("out-of-memory@5:replica=1", "unknown key 'replica'; known here: duration, pool, ratio"),
        ("kv-shrink@5:kept=0", "kept must be more than 0, got '0'"),
        ("metric-loss@5", "metric must be one of running_requests, queued_requests"),
        ("metric-loss@5:metric=observed_at", "got 'observed_at'"),
        ("retries@5:times=0", "times must be at least 1, got '0'"),
        ("retries@5:times=1.5", "times must be a whole number, got '1.5'"),
        ("cold-starts@5:lasting=0", "lasting must be more than 0, got '0'"),
        ("poison@5:prompt=0", "prompt must be at least 1, got '0'"),
    ],
)
def test_a_bad_spec_is_refused_with_the_part_that_is_wrong_and_the_syntax(spec: str, complaint: str) -> None:
    with pytest.raises(BadInput) as refusal:
        parse_fault(spec)
    assert complaint in refusal.value.what
    assert repr(spec) in refusal.value.where
    assert "KIND@SECONDS" in refusal.value.remedy


def kinds() -> set[str]:
    with pytest.raises(BadInput) as refusal:
        parse_fault("explode@5")
    return set(refusal.value.what.partition("known: ")[2].split(", "))


def test_every_kind_is_explained_where_syntax_is_shown_and_has_its_row_in_the_docs() -> None:
    explained = {line.split()[0] for line in SYNTAX.splitlines() if line.startswith("     ") and line[5] != " "}
    assert explained == kinds()
    docs = (Path(__file__).resolve().parents[2] / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1] for line in docs.splitlines() if line.startswith("| `")}
    assert rows == kinds()


def test_every_example_of_the_docs_can_be_read() -> None:
    docs = (Path(__file__).resolve().parents[2] / "docs" / "faults.md").read_text(encoding="utf-8")
    examples = re.findall(r"--fault '([^']+)'", docs)
    assert len(examples) > 5
    for example in examples:
        assert parse_fault(example).at_s >= 0
