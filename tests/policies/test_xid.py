"""Does each Xid code ask for what NVIDIA's table says, and an unknown one for nothing but a human?"""

from __future__ import annotations

import doctest
import math

import pytest

from policies import xid
from policies.xid import XID_ACTIONS, XidAction, xid_action


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (13, XidAction.RESTART_ENGINE),
        (31, XidAction.RESTART_ENGINE),
        (40, XidAction.RESTART_ENGINE),
        (63, XidAction.NOTHING),
        (64, XidAction.RESET_GPU),
        (92, XidAction.NOTHING),
        (94, XidAction.RESTART_ENGINE),
        (119, XidAction.RESET_GPU),
        (79, XidAction.RESTART_NODE),
        (145, XidAction.FOLLOW_WORKFLOW),
        (54, XidAction.CHECK_HARDWARE),
        (78, XidAction.UPDATE_SOFTWARE),
    ],
)
def test_codes_ask_for_what_the_table_says(code: int, action: XidAction) -> None:
    assert xid_action(float(code)) is action


@pytest.mark.parametrize("code", [1.0, 999.0, 31.5, -3.0])
def test_what_the_table_does_not_list_is_for_people_and_moves_nothing(code: float) -> None:
    assert xid_action(code) is XidAction.UNKNOWN
    assert xid_action(code).for_people
    assert not xid_action(code).elsewhere


@pytest.mark.parametrize("code", [0.0, math.nan])
def test_no_error_asks_for_nothing(code: float) -> None:
    assert xid_action(code) is XidAction.NOTHING


def test_docstrings_show_what_happens() -> None:
    assert doctest.testmod(xid).failed == 0


def test_no_code_is_listed_twice_and_no_action_is_both_done_and_asked_about() -> None:
    listed = [code for text in xid._CODES.values() for code in xid._listed(text)]
    assert len(listed) == len(set(listed)) == len(XID_ACTIONS)
    assert not [action for action in XidAction if action.elsewhere and action.for_people]
