"""What can be made wrong with a running engine: faults as values, and how they are written as JSON.

The words are those of ``simulations.faults``. Each fault is named with its number in the failure catalogue (F1, F2...).
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from controller.errors import BadInput


class _Fault(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _LastingFault(_Fault):
    duration_s: float | None = Field(
        None, gt=0, description="Ends by itself after so many seconds; null: when cleared."
    )


class Hang(_LastingFault):
    """The engine stops stepping, while the process answers ``/health`` with 200 and takes requests (F1)."""

    kind: Literal["hang"]
    running: Literal["stuck", "zero"] = Field("stuck", description="Running gauge: stays as it is, or reads 0.")


class Slow(_LastingFault):
    """Each step takes ``factor`` times as long, as on a throttled GPU (F8)."""

    kind: Literal["slow"]
    factor: float = Field(3.0, gt=1, le=1000, description="On the duration of steps.")


class Errors(_LastingFault):
    """Completions are refused with a 5xx at once (F2, while the API server lingers)."""

    kind: Literal["errors"]
    share: float = Field(1.0, gt=0, le=1, description="Of the requests, evenly spread: 0.25 is every fourth.")
    status: int = Field(500, ge=500, le=599, description="HTTP status.")


class KvThrash(_LastingFault):
    """Most of the KV cache is gone, so that running requests preempt each other (F6)."""

    kind: Literal["kv-thrash"]
    kept_ratio: float = Field(0.02, gt=0, lt=1, description="Share of the KV cache that is left.")


class ExporterFreeze(_LastingFault):
    """``/metrics`` says what it said when this began, while the engine works on (F13)."""

    kind: Literal["exporter-freeze"]


class Refuse(_LastingFault):
    """The serving port takes no connection, and those that it has are cut, while metrics are scraped as ever (F12)."""

    kind: Literal["refuse"]


class Xid(_LastingFault):
    """A GPU reports an Xid error, whatever the engine does (F9)."""

    kind: Literal["xid"]
    code: int = Field(79, ge=1, le=999, description="Of the error: 79 says that the GPU has fallen off the bus.")


class Exit(_Fault):
    """The process is gone at once, open connections with it (F2); code 0 as some engines do (no crash for Docker)."""

    kind: Literal["exit"]
    code: int = Field(0, ge=0, le=255, description="Exit code.")


class StartCrash(_Fault):
    """The process exits with 1 while it starts up (F3, F4)."""

    kind: Literal["start-crash"]
    at_s: float = Field(0.0, ge=0, description="Seconds after the process began.")


LastingFault: TypeAlias = Hang | Slow | Errors | KvThrash | ExporterFreeze | Refuse | Xid
EngineFault: TypeAlias = LastingFault | Exit | StartCrash

_FAULT: TypeAdapter[EngineFault] = TypeAdapter(Annotated[EngineFault, Field(discriminator="kind")])


def is_lasting(fault: EngineFault) -> bool:
    """Return whether the fault goes on until it is cleared, or its time is over."""
    return isinstance(fault, _LastingFault)


def parse_fault(body: bytes) -> EngineFault:
    """Return the fault that the JSON describes, such as ``{"kind": "slow", "factor": 2, "duration_s": 60}``.

    Raises:
        BadInput: Naming the field and what is wrong with it.
    """
    try:
        return _FAULT.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(first["msg"], where or "fault", "see simulations/live/engine_faults.py for the kinds") from None
