"""Are faults read as they are written, and refused with the field that is wrong?"""

from __future__ import annotations

import json

import pytest

from controller.errors import BadInput
from simulations.live.engine_faults import Errors, Exit, Hang, Slow, parse_fault


def test_faults_are_told_by_their_kind() -> None:
    assert parse_fault(b'{"kind": "hang", "running": "zero"}') == Hang(kind="hang", running="zero")
    assert parse_fault(b'{"kind": "slow", "factor": 2, "duration_s": 60}') == Slow(kind="slow", factor=2, duration_s=60)
    assert parse_fault(b'{"kind": "errors", "share": 0.25}') == Errors(kind="errors", share=0.25)
    assert parse_fault(b'{"kind": "exit"}') == Exit(kind="exit", code=0)


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        ({"kind": "sleepy"}, "kind"),
        ({}, "kind"),
        ({"kind": "slow", "factor": 1}, "factor"),
        ({"kind": "errors", "share": 1.5}, "share"),
        ({"kind": "errors", "status": 404}, "status"),
        ({"kind": "hang", "duration_s": 0}, "duration_s"),
        ({"kind": "hang", "loud": True}, "loud"),
        ({"kind": "exit", "code": 300}, "code"),
    ],
)
def test_a_fault_that_cannot_be_names_the_field(fault: dict[str, object], names: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_fault(json.dumps(fault).encode())
    assert names in f"{caught.value.where} {caught.value.what}"


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(BadInput, match="JSON"):
        parse_fault(b"hang!")
