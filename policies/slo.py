"""What was promised: the service objective of a workload."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ServiceObjective(BaseModel):
    """When a request counts as served well, and how many must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ttft_s: float = Field(2.0, gt=0, le=86400, description="Longest acceptable time to first token, in seconds.")
    tpot_s: float = Field(
        0.1, gt=0, le=3600, description="Longest acceptable mean time per output token after the first, in seconds."
    )
    attainment_ratio: float = Field(
        0.99, gt=0, lt=1, description="Share of requests that must meet both; 0.99 leaves 1 % for bursts."
    )
    window_s: float = Field(
        300.0, gt=0, le=30 * 86400, description="Window over which realised attainment is judged, in seconds."
    )

    def met(self, ttft_s: float, tpot_s: float) -> bool:
        """Return whether a finished request met the objective."""
        return ttft_s <= self.ttft_s and tpot_s <= self.tpot_s
