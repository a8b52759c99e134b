"""What is published about the controller, and under which names do others look for it?"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field


class TelemetrySettings(BaseModel):
    """What is published, and under which names others look for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: str = Field("", description="Label `namespace` of the wva_* metrics: where the scale targets live.")
    variants: Mapping[str, str] = Field(
        default_factory=dict,
        description="Label `variant_name` of the wva_* metrics by pool key: the scale target's name, or namespace/name "
        "where that is in another namespace; the pool's name where nothing is said.",
    )
    forecast_leads_s: tuple[float, ...] = Field(
        (60.0, 300.0, 900.0),
        max_length=16,
        description="Leads in seconds at which forecasts are published and compared with what came.",
    )
    forecast_levels: tuple[float, ...] = Field(
        (0.5, 0.9),
        max_length=16,
        description="Quantile levels at which forecasts are published, inside (0, 1).",
    )
    publish_for_s: float = Field(
        300.0,
        gt=0,
        description="Age in seconds from which the newest decision is no longer published, so that others hold.",
    )
    max_series: int = Field(
        20_000, ge=100, description="Most series per metric; what is beyond is left out and counted."
    )
