"""How are forecasters compared in service, and when does a champion lose its place?"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SkillSettings(BaseModel):
    """What a champion has to show, and for how long it is left alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_s: float = Field(600.0, ge=10, le=86_400, description="Seconds between two looks at how forecasters did.")
    roll_back: bool = Field(True, description="Whether a champion that is worse beyond doubt is rolled back.")
    tolerance: float = Field(
        0.1, ge=0, le=1, description="Share by which its loss may be larger than that of the one before it."
    )
    least_forecasts: int = Field(
        24, ge=8, le=100_000, description="Past forecasts of both that must have come true, over all workloads."
    )
    quiet_s: float = Field(
        6 * 3600.0, ge=0, description="Seconds after a roll-back in which there is no other; nobody flaps."
    )
    forced_quiet_s: float = Field(
        24 * 3600.0, ge=0, description="Seconds for which a champion that was promoted by force keeps its place."
    )
