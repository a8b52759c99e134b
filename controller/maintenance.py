"""Which acts does a maintenance window hold, and until when?

A window is one span between two instants, or comes back every week. It never lets anything through: modes, the kill
switch and staleness hold what they hold inside of it as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from functools import cache
from typing import Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from controller.instants import instant

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S

Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class HeldClass(StrEnum):
    """What a window can hold. More replicas and fewer are apart: growing rarely hurts those who work on the fleet."""

    HEALING = "healing"
    TRAFFIC = "traffic"
    SCALE_DOWN = "scale_down"
    SCALE_UP = "scale_up"


class Weekly(BaseModel):
    """A window that comes back every week."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: tuple[Day, ...] = Field(
        min_length=1, description="Days on which it begins: mon, tue, wed, thu, fri, sat, sun."
    )
    at: str = Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="Time of day at which it begins, HH:MM.")
    time_zone: str = Field("UTC", description="Time zone of days and time, such as Europe/Berlin.")
    duration_s: float = Field(gt=0, le=WEEK_S, description="Seconds from its beginning to its end.")

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        _zone(name)
        return name

    def until_at(self, at: float) -> float | None:
        """Return when the window that covers ``at`` ends; None outside of any.

        A time of day that the change to summer time leaves out is taken an hour later, one that comes twice the first
        time. The duration is in elapsed seconds.
        """
        zone, begin = _zone(self.time_zone), time.fromisoformat(self.at)
        today = datetime.fromtimestamp(at, zone).date()
        back = math.ceil(self.duration_s / DAY_S) + 1
        ends = [
            end
            for days in range(-back, 2)
            if (end := self._end(today + timedelta(days), begin, zone)) is not None
            and end - self.duration_s <= at < end
        ]
        return max(ends, default=None)

    def _end(self, day: date, begin: time, zone: tzinfo) -> float | None:
        if DAYS[day.weekday()] not in self.days:
            return None
        return datetime.combine(day, begin, zone).timestamp() + self.duration_s


class Window(BaseModel):
    """A time in which acts are held because people work on the fleet: ``from`` and ``until``, or ``weekly``."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    from_at: AwareDatetime | None = Field(
        None, alias="from", description="Beginning, such as 2027-01-15T22:00:00Z: with a time zone or Z."
    )
    until: AwareDatetime | None = Field(None, description="End, written like the beginning.")
    weekly: Weekly | None = Field(None, description="Days, time of day, time zone and duration of one that comes back.")
    classes: tuple[HeldClass, ...] = Field(
        (HeldClass.HEALING, HeldClass.TRAFFIC, HeldClass.SCALE_DOWN),
        min_length=1,
        description="What is held: healing, traffic, scale_down, scale_up. Growing is allowed unless named.",
    )
    workloads: tuple[str, ...] = Field((), description="Models it concerns; none named means all.")
    why: str = Field(min_length=1, max_length=200, description="What it is for; told with everything that it holds.")

    @model_validator(mode="after")
    def _one_kind(self) -> Window:
        once = self.from_at is not None or self.until is not None
        if once == (self.weekly is not None):
            raise ValueError("a window has either from and until, or weekly")
        if once and (self.from_at is None or self.until is None):
            raise ValueError("a window needs both from and until: one without an end is a mode")
        if self.from_at is not None and self.until is not None and self.until <= self.from_at:
            raise ValueError(f"the window ends at {self.until.isoformat()}, which is not after its beginning")
        return self

    def until_at(self, at: float) -> float | None:
        """Return when the window ends that covers ``at``; None outside of it."""
        if self.weekly is not None:
            return self.weekly.until_at(at)
        if self.from_at is None or self.until is None:  # never: see above
            return None
        return end if self.from_at.timestamp() <= at < (end := self.until.timestamp()) else None


def held_by(windows: Sequence[Window], held: HeldClass, model: str, at: float) -> str:
    """Return what of ``windows`` holds acts of that class on ``model`` at ``at``; empty when nothing does.

    Of several the one that ends last is named. Without a ``model``, as of a node, those of every workload hold.
    """
    covering = [
        (until_at, window.why)
        for window in windows
        if held in window.classes
        and (not window.workloads or not model or model in window.workloads)
        and (until_at := window.until_at(at)) is not None
    ]
    if not covering:
        return ""
    until_at, why = max(covering)
    return f"maintenance: {why} until {instant(until_at)}"


@cache
def _zone(name: str) -> tzinfo:
    """Return the time zone of that name; raises ValueError. Bounded by the settings, since only known ones are kept."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!r}, or no time zone data on this machine") from None
