"""When is a maintenance window on, and what does it hold?"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.maintenance import DAYS, HeldClass, Weekly, Window, held_by

FROM, UNTIL = "2027-01-15T22:00:00Z", "2027-01-16T02:00:00+01:00"
FROM_AT, UNTIL_AT = 1_800_050_400.0, 1_800_061_200.0


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def once(**said: Any) -> Window:
    return Window.model_validate({"from": FROM, "until": UNTIL, "why": "new drivers", **said})


def weekly(zone: str = "UTC", **said: Any) -> Window:
    given = {"days": ("sat",), "at": "22:00", "time_zone": zone, "duration_s": 7200.0}
    return Window.model_validate({"weekly": {**given, **said}, "why": "patches"})


@pytest.mark.parametrize(
    ("now", "ends"), [(FROM_AT - 1, None), (FROM_AT, UNTIL_AT), (UNTIL_AT - 0.1, UNTIL_AT), (UNTIL_AT, None)]
)
def test_a_window_holds_from_its_beginning_until_its_end(now: float, ends: float | None) -> None:
    assert once().until_at(now) == ends


def test_a_window_says_why_and_until_when() -> None:
    assert held_by((once(),), HeldClass.HEALING, "m", FROM_AT) == "maintenance: new drivers until 2027-01-16 01:00:00Z"


@pytest.mark.parametrize(
    ("said", "held", "model", "holds"),
    [
        ({}, HeldClass.HEALING, "m", True),
        ({}, HeldClass.TRAFFIC, "m", True),
        ({}, HeldClass.SCALE_DOWN, "m", True),
        ({}, HeldClass.SCALE_UP, "m", False),
        ({"classes": ("scale_up",)}, HeldClass.SCALE_UP, "m", True),
        ({"classes": ("scale_up",)}, HeldClass.HEALING, "m", False),
        ({"workloads": ("m",)}, HeldClass.HEALING, "m", True),
        ({"workloads": ("other",)}, HeldClass.HEALING, "m", False),
    ],
)
def test_growing_is_held_only_where_that_is_said(said: Any, held: HeldClass, model: str, holds: bool) -> None:
    assert bool(held_by((once(**said),), held, model, FROM_AT)) is holds


def test_of_several_windows_the_one_that_ends_last_is_named() -> None:
    longer = once(until="2027-01-17T00:00:00Z", why="a move")
    assert "a move until 2027-01-17" in held_by((once(), longer, once()), HeldClass.HEALING, "m", FROM_AT)


@pytest.mark.parametrize(
    ("window", "now", "until"),
    [
        (weekly(), at("2027-01-16T22:00"), at("2027-01-17T00:00")),  # a Saturday
        (weekly(), at("2027-01-16T21:59:59"), None),
        (weekly(), at("2027-01-15T22:30"), None),
        (weekly(), at("2027-01-16T23:59"), at("2027-01-17T00:00")),
        (weekly("Europe/Berlin"), at("2027-01-16T21:30"), at("2027-01-16T23:00")),
        (weekly("Europe/Berlin", duration_s=86_400.0), at("2027-01-17T20:59"), at("2027-01-17T21:00")),
        # Clocks go forward at 02:00 on 2027-03-28: 02:30 is not there and is taken an hour later ...
        (weekly("Europe/Berlin", days=("sun",), at="02:30"), at("2027-03-28T01:30"), at("2027-03-28T03:30")),
        (weekly("Europe/Berlin", days=("sun",), at="02:30"), at("2027-03-28T01:29"), None),
        # ... and back at 03:00 on 2027-10-31: 02:30 is there twice, and the first counts.
        (weekly("Europe/Berlin", days=("sun",), at="02:30"), at("2027-10-31T00:30"), at("2027-10-31T02:30")),
        # Two hours are two hours, whatever clocks on walls do meanwhile.
        (weekly("Europe/Berlin", days=("sun",), at="01:00"), at("2027-03-28T01:59"), at("2027-03-28T02:00")),
    ],
)
def test_a_weekly_window_goes_by_the_clocks_of_its_time_zone(window: Window, now: float, until: float | None) -> None:
    assert window.until_at(now) == until


@given(
    st.sets(st.sampled_from(DAYS), min_size=1),
    st.integers(0, 24 * 60 - 1),
    st.integers(1, 7 * 24 * 60),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Apia"]),
    st.integers(0, 400 * 24 * 60),
)
def test_a_weekly_window_covers_what_any_of_its_beginnings_covers(
    days: set[Any], minute: int, minutes: int, zone_name: str, after: int
) -> None:
    zone, now = ZoneInfo(zone_name), at("2027-01-01T00:00") + 60.0 * after
    clock = f"{minute // 60:02}:{minute % 60:02}"
    window = Weekly(days=tuple(days), at=clock, time_zone=zone_name, duration_s=60.0 * minutes)
    ends = []
    for back in range(-10, 3):  # every day that could matter, counted without a bound on the duration
        day = datetime.fromtimestamp(now, zone) + timedelta(days=back)
        begins = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=zone)
        if DAYS[begins.weekday()] in days and begins.timestamp() <= now < begins.timestamp() + 60.0 * minutes:
            ends.append(begins.timestamp() + 60.0 * minutes)
    assert window.until_at(now) == max(ends, default=None)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"from": FROM, "why": "x"}, "both from and until"),
        ({"until": UNTIL, "why": "x"}, "both from and until"),
        ({"why": "x"}, "either from and until, or weekly"),
        ({"from": FROM, "until": UNTIL}, "why"),
        ({"from": FROM, "until": UNTIL, "why": ""}, "at least 1 character"),
        ({"from": UNTIL, "until": FROM, "why": "x"}, "not after its beginning"),
        ({"from": FROM, "until": FROM, "why": "x"}, "not after its beginning"),
        ({"from": "2027-01-15T22:00:00", "until": UNTIL, "why": "x"}, "timezone"),
        ({"from": FROM, "until": UNTIL, "why": "x", "classes": []}, "at least 1 item"),
        ({"from": FROM, "until": UNTIL, "why": "x", "classes": ["scaling"]}, "classes"),
        ({"from": FROM, "until": UNTIL, "why": "x", "class": ["healing"]}, "class"),
    ],
)
def test_a_window_that_cannot_be_meant_is_refused(said: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Window.model_validate(said)


@pytest.mark.parametrize(
    "said",
    [
        {"days": ()},
        {"days": ("saturday",)},
        {"at": "24:00"},
        {"at": "9:00"},
        {"at": "22:00\n"},
        {"time_zone": "Mars/Olympus"},
        {"time_zone": "../../etc/passwd"},
        {"duration_s": 0.0},
        {"duration_s": 604_801.0},
        {"duration_s": float("nan")},
    ],
)
def test_a_weekly_window_that_cannot_be_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        weekly(**said)


def test_a_window_is_once_or_weekly_and_not_both() -> None:
    both = {**once().model_dump(mode="json"), "weekly": weekly().model_dump(mode="json")["weekly"]}
    with pytest.raises(ValidationError, match="either from and until, or weekly"):
        Window.model_validate(both)
