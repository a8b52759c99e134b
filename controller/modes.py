"""How far may Foresail go without a human, per class of action?"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Mode(StrEnum):
    """How far an action class may go. There is none between telling and acting: nothing waits for approval."""

    OBSERVE = "observe"  # decide and record
    RECOMMEND = "recommend"  # ... and tell
    AUTO = "auto"  # act


class ModeSettings(BaseModel):
    """What may be done without a human. The default does nothing but look."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scaling: Mode = Field(Mode.OBSERVE, description="Replica counts: observe, recommend (tell a human) or auto.")
    traffic: Mode = Field(
        Mode.OBSERVE, description="Traffic weights between pools, and failover: observe, recommend or auto."
    )
    healing: Mode = Field(
        Mode.OBSERVE, description="Cordon, uncordon and restart of single replicas: observe, recommend or auto."
    )

    @field_validator("scaling", "traffic", "healing", mode="before")
    @classmethod
    def _no_approval_yet(cls, mode: object) -> object:
        if mode == "approve":
            raise ValueError("approve is not there yet: nobody could agree to anything, so nothing would ever be done")
        return mode

    @classmethod
    def all_auto(cls) -> ModeSettings:
        """Return modes in which everything acts by itself."""
        return cls(scaling=Mode.AUTO, traffic=Mode.AUTO, healing=Mode.AUTO)
