"""How often does a rival decide, and how fresh are its figures when it does?

Every rival has a pipeline of its own: Knative asks its proxies every second, Dynamo hears of every forward pass, KEDA
reads a Prometheus that scrapes every 15 or 30 s. So each has its rhythm among its settings, and a run is driven at it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from simulations.settings import FleetSettings


class Rhythm(BaseModel):
    """When a rival looks, and at what; a rival's settings extend it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tick_s: float = Field(15.0, ge=1, le=3600, description="Seconds between two decisions.")
    scrape_interval_s: float | None = Field(
        None,
        ge=0.5,
        le=3600,
        description="Seconds between two samples of one target. None: those of the simulated world's Prometheus.",
    )
    scrape_delay_s: float | None = Field(
        None, ge=0, le=60, description="Seconds from a sample until it can be read. None: as the simulated world's."
    )

    def seen_in(self, world: FleetSettings) -> FleetSettings:
        """Return ``world`` with metrics as fresh as this rival's own pipeline gets them."""
        said = {"scrape_interval_s": self.scrape_interval_s, "scrape_delay_s": self.scrape_delay_s}
        return world.model_copy(update={name: value for name, value in said.items() if value is not None})


class KvRhythm(Rhythm):
    """Of rivals that go by KV cache use: what counts as a full cache."""

    kv_of_tested: bool = Field(
        False,
        description="Take KV cache use as a share of what one replica used at its tested load, instead of the whole "
        "cache. How full a cache is at the best load depends on model and GPU: a tenth, or all of it.",
    )
