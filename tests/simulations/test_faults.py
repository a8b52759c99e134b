"""Are faults read as written, and bad ones refused in words?"""

from __future__ import annotations

import math

import pytest

from controller.errors import BadInput
from simulations.fault_syntax import parse_fault
from simulations.faults import (
    Crash,
    Errors,
    ExporterFreeze,
    Fault,
    Hang,
    MetricsFreeze,
    MetricsLoss,
    NodeLoss,
    Reclaim,
    ReplicaTarget,
    SlowDown,
    StockOut,
)


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
    ],
)
def test_a_bad_spec_is_refused_with_the_part_that_is_wrong_and_the_syntax(spec: str, complaint: str) -> None:
    with pytest.raises(BadInput) as refusal:
        parse_fault(spec)
    assert complaint in refusal.value.what
    assert repr(spec) in refusal.value.where
    assert "KIND@SECONDS" in refusal.value.remedy
