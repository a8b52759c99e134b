"""How does the simulated world behave: timeouts of the gateway, delays of the platform, rhythm of the scrapes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from simulations.routings import Routing


class FleetSettings(BaseModel):
    """What a simulated fleet does that is neither its pools nor its load."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch_at: float = Field(
        0.0,
        description="Instant at which the simulation begins, seconds since the Unix epoch; commands take that of the "
        "trace unless it is set.",
    )
    gateway_timeout_s: float = Field(
        60.0, gt=0, description="Longest a request is held while no replica can take it, in seconds; then it fails."
    )
    request_timeout_s: float = Field(
        600.0,
        gt=0,
        description="Seconds after arrival at which the client gives up; ten minutes is what SDKs default to.",
    )
    connect_timeout_s: float = Field(
        5.0, gt=0, description="Seconds until the gateway gives up reaching a replica (Envoy's default)."
    )
    drain_deadline_s: float = Field(
        120.0, ge=0, description="Seconds a draining replica may take to finish; what is left then is dropped."
    )
    restart_backoff_s: float = Field(
        10.0, ge=0, description="Seconds before a crashed engine is started again; doubles per crash (kubelet's rule)."
    )
    restart_backoff_cap_s: float = Field(300.0, ge=0, description="Longest such wait, in seconds (kubelet's cap).")
    restart_backoff_reset_s: float = Field(
        600.0, gt=0, description="Seconds of serving after which a crash counts as the first again (kubelet's rule)."
    )
    scrape_interval_s: float = Field(15.0, ge=0.1, le=3600, description="Seconds between scrapes of one target.")
    scrape_delay_s: float = Field(1.0, ge=0, description="Seconds from a scrape until a query returns it.")
    gateway_scrape_phase_s: float | None = Field(
        None,
        ge=0,
        description="Seconds after a multiple of the interval at which the gateway is scraped. None: just early enough "
        "to be visible at each multiple, where a control tick of the same rhythm looks.",
    )
    output_tokens_prior: float = Field(
        200.0, gt=0, description="Output tokens per request assumed for the offered load until the first requests end."
    )
    output_tokens_window_s: float = Field(
        300.0, gt=0, description="Window over which the mean output length of finished requests is taken, in seconds."
    )
    finish_grace_s: float = Field(
        1200.0, ge=0, description="Longest that ``finish`` runs on after the last arrival, in seconds."
    )
    routing: Routing = Field(
        "least_connections",
        description="How the gateway chooses a replica of the pool that a request goes to: least_connections (fewest "
        "in flight), round_robin, least_response_time (fewest in flight times mean response time), power_of_two (the "
        "less busy of two drawn at random) or prefix_aware (where its prefix went last, unless that one is busy).",
    )
    prefix_match_ratio: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Share of a prompt's hashes that prefix_aware must have seen to follow them (SGLang's default).",
    )
    prefix_most_ahead: int = Field(
        64,
        ge=0,
        description="prefix_aware does not follow to a replica with this many more in flight than the least busy one "
        "(SGLang's default), and",
    )
    prefix_most_ratio: float = Field(1.5, ge=1, description="more than so many times as many (SGLang's default).")
    kv_gb_per_s: float = Field(
        25.0,
        gt=0,
        description="Rate at which a prefill replica sends keys and values, in 10^9 bytes/s: 25 is a port of 200 Gb/s.",
    )
    kv_latency_s: float = Field(0.01, ge=0, description="What each transfer of keys and values takes beside.")
    gpu_metrics: bool = Field(
        True, description="Whether GPUs are exported as DCGM does: Xid errors, power and clock of each replica."
    )
    gpus_per_node: int = Field(8, gt=0, description="GPUs of a node; decides which replicas a node loss takes.")

    @property
    def gateway_scrape_offset_s(self) -> float:
        """Seconds after a multiple of the interval at which the gateway is scraped."""
        if self.gateway_scrape_phase_s is not None:
            return self.gateway_scrape_phase_s % self.scrape_interval_s
        return -self.scrape_delay_s % self.scrape_interval_s
