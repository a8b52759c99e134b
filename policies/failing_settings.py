"""When do errors count against a replica?"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class FailingSettings(BaseModel):
    """When errors count against a replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    half_life_s: float = Field(
        30.0,
        gt=0,
        description="Time in seconds after which an answer counts half: long enough for some ten of them at the load "
        "of one replica, short enough to notice a burst within two ticks.",
    )
    long_half_life_s: float = Field(
        120.0, gt=0, description="The longer half-life, in seconds: for replicas that answer once in some seconds."
    )
    failed_ratio: float = Field(
        0.2, gt=0, le=1, description="Share of its answers that must be errors; fewer cost less than a restart does."
    )
    times_peers: float = Field(
        3.0, gt=1, description="It must also be this many times the share of a peer for that peer to speak against it."
    )
    z: float = Field(
        5.0,
        gt=0,
        description="Standard errors by which its share must exceed that of its peers (two-proportion z-test). Where 2 "
        "to 20 % of all requests fail by chance, ten replicas had a single such look about once in two months of "
        "simulated time, and never several in a row.",
    )
    chance: float = Field(
        1e-9,
        gt=0,
        lt=1,
        description="Chance of as many errors being its own, if all replicas failed alike (Fisher's exact test), "
        "below which it is none, of what counts with the longer half-life: far less than the z-score leaves, since "
        "that changes little from one look to the next.",
    )
    least_failed: float = Field(5.0, ge=1, description="Errors that must count at the moment; fewer are single errors.")
    least_failed_long: float = Field(
        12.0,
        ge=1,
        description="The same with the longer half-life: fewer in the minutes that it holds cost less than a restart.",
    )
    run_ends_after: float = Field(
        30.0,
        gt=0,
        description="Good answers in a row after which errors of before are no longer counted together: of an engine "
        "that fails three in ten, one such row in 44,000.",
    )
    looks: int = Field(3, ge=1, description="Looks within the look-back at which it must be so (k of n).")
    look_back_s: float = Field(
        120.0,
        gt=0,
        description="Look-back of the k-of-n rule, in seconds; counts that were not told for this long begin anew.",
    )
    max_age_s: float = Field(60.0, gt=0, description="Counts older than this, in seconds, are no evidence at all.")

    @property
    def even_ratio(self) -> float:
        """Share of errors that neither lengthens a run nor ends it: half of what must be errors."""
        return self.failed_ratio / 2.0

    @property
    def most_level(self) -> float:
        """How far errors may outweigh good answers: more would only be remembered for longer."""
        return self.run_ends_after * self.even_ratio
