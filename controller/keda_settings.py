"""Where does KEDA ask what is decided?"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from controller.status_server import refuse_outside


class KedaSettings(BaseModel):
    """Where the external scaler is reached by KEDA."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = Field(
        "127.0.0.1:9465",
        description="HOST:PORT of the external scaler, HOST as an address ([::1]:9465) or localhost; port 0 takes a "
        "free one. It is listened on only by the process that leads. Cannot change while the daemon runs.",
    )
    public: bool = Field(
        False,
        description="Whether an address that others reach may be bound: sizes are told there, without encryption.",
    )

    @model_validator(mode="after")
    def _loopback_unless_public(self) -> KedaSettings:
        refuse_outside(self.address, self.public)
        return self
