"""Which Prometheus is asked, as whom, how patiently, and by which labels are its series told apart?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from controller.adapters.safe_url import why_unsafe

_MIB = 1024 * 1024
_LABEL = r"^[a-zA-Z_][a-zA-Z0-9_]*$"
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SECRET_HEADER = re.compile(r"auth|token|secret|key|password|cookie|credential", re.IGNORECASE)


class BasicAuth(BaseModel):
    """A user name, and where the password is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    username: str = Field(min_length=1, description="User name.")
    password_file: Path = Field(description="File that holds the password; read anew for each request.")


class PrometheusSettings(BaseModel):
    """Where measurements come from: anything that speaks the query API of Prometheus."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(
        "http://127.0.0.1:9090",
        description="Address of Prometheus, Thanos, Mimir or VictoriaMetrics, with the path before /api/v1 if there is "
        "one: http or https, without credentials. Link-local addresses are refused.",
    )
    bearer_token_file: Path | None = Field(
        None, description="File that holds a bearer token; read anew for each request, since tokens are rotated."
    )
    basic_auth: BasicAuth | None = Field(None, description="User name and password file, instead of a token.")
    ca_file: Path | None = Field(None, description="Certificates (PEM) to trust instead of the system's.")
    client_cert_file: Path | None = Field(None, description="Own certificate (PEM) for mutual TLS.")
    client_key_file: Path | None = Field(None, description="Key (PEM) of that certificate, if not in the same file.")
    headers: Mapping[str, str] = Field(
        default_factory=dict, description="Further headers, such as X-Scope-OrgID for a tenant; no secrets."
    )

    connect_timeout_s: float = Field(2.0, gt=0, le=60, description="Longest wait for a connection, in seconds.")
    query_timeout_s: float = Field(
        8.0,
        gt=0,
        le=300,
        description="Longest that one query may take until its answer is read, in seconds; a tick has fifteen.",
    )
    read_timeout_s: float = Field(
        12.0, gt=0, le=600, description="Longest that all queries of one tick may take together, in seconds."
    )
    attempts: int = Field(
        2, ge=1, le=5, description="Times that a query is tried when the connection fails or the server is overloaded."
    )
    parallel_queries: int = Field(
        4, ge=1, le=16, description="Queries under way at once; a Prometheus takes twenty from everybody by default."
    )
    max_response_mib: float = Field(
        32.0, gt=0, le=1024, description="Largest answer read, in MiB; 10,000 replicas need 1 per signal."
    )
    max_series: int = Field(
        100_000, gt=0, description="Most series of one answer; more is a label set that exploded, or the wrong server."
    )
    max_clock_skew_s: float = Field(
        5.0,
        gt=0,
        description="Largest difference between the server's clock and ours, in seconds. Beyond it nothing is "
        "believed: old samples would look new or new ones old.",
    )

    replica_label: str = Field("pod", pattern=_LABEL, description="Label whose value is the id of a replica.")
    pool_label: str = Field("pool", pattern=_LABEL, description="Label whose value is the name of its pool.")
    model_label: str = Field("model_name", pattern=_LABEL, description="Label whose value is the name of its model.")
    target_label: str = Field("instance", pattern=_LABEL, description="Label whose value is the address of a target.")
    match: Mapping[str, str] = Field(
        default_factory=dict,
        description="Labels that every series must have, with their value, such as cluster: eu-1; for a server that "
        "holds more than this fleet.",
    )

    stale_after_s: float = Field(
        45.0,
        gt=0,
        description="Age in seconds from which a sample of the gateway, or a rate made of samples of an engine, no "
        "longer counts: two scrapes of 15 s have failed.",
    )
    means_window_s: float = Field(
        300.0, gt=0, description="Window over which mean prompt and output lengths are taken, in seconds."
    )
    means_refresh_s: float = Field(
        60.0,
        ge=0,
        description="Age in seconds from which figures over a window (mean lengths, attainment) are asked for anew: "
        "they move slowly, and are what costs the server most.",
    )
    latency_window_s: float = Field(
        60.0, gt=0, description="Window over which the TTFT of a single replica is taken, in seconds."
    )
    event_window_s: float = Field(
        600.0,
        gt=0,
        description="Time in seconds for which an Xid error of a GPU is told after it occurred: exporters keep the "
        "last one for ever, also when the GPU has gone to another replica.",
    )
    replica_ttft_up_to: int = Field(
        1000,
        ge=0,
        description="Replicas up to which the TTFT of single ones is asked for: it reads every bucket of each (5 s of "
        "the server's time for 10,000), and only people look at it.",
    )
    prompt_tokens_prior: float = Field(
        1000.0, gt=0, description="Prompt tokens per request assumed until the first requests have told."
    )
    output_tokens_prior: float = Field(
        200.0, gt=0, description="Output tokens per request assumed until the first requests have ended."
    )
    min_coverage_ratio: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Share of a model's engines that were heard of lately that must still be heard of, for their sum "
        "to pass as the offered load where no gateway counts it.",
    )
    probe_interval_s: float = Field(
        300.0, gt=0, description="Time between looks at which metric names exist, in seconds; sooner when some vanish."
    )

    @field_validator("url")
    @classmethod
    def _asked_safely(cls, url: str) -> str:
        if why := why_unsafe(url):
            raise ValueError(why)
        return url.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _no_secrets(cls, headers: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in headers.items():
            if not _HEADER.fullmatch(name) or not value.isprintable():
                raise ValueError(f"{name!r} cannot be a header")
            if _SECRET_HEADER.search(name):
                raise ValueError(f"{name} looks like a secret: give bearer_token_file or basic_auth instead")
        return headers

    @model_validator(mode="after")
    def _one_identity(self) -> PrometheusSettings:
        if self.bearer_token_file and self.basic_auth:
            raise ValueError("bearer_token_file and basic_auth are both given: a request can be from one only")
        if self.client_key_file and not self.client_cert_file:
            raise ValueError("client_key_file is given without client_cert_file")
        labels = [self.replica_label, self.pool_label, self.model_label, self.target_label]
        if len(set(labels)) < len(labels):
            raise ValueError(f"labels of replica, pool, model and target must differ, got {', '.join(labels)}")
        return self

    @property
    def max_response_bytes(self) -> int:
        """Largest answer read, in bytes."""
        return int(self.max_response_mib * _MIB)
