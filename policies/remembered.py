"""What form has what is remembered between ticks: plain figures that read back from JSON as they were written."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field

from policies.fleet import PoolKey

Count: TypeAlias = Annotated[int, Field(ge=0)]
Total: TypeAlias = Annotated[float, Field(ge=0)]


def _pool_text(text: str) -> str:
    return str(PoolKey.parse(text))


PoolText: TypeAlias = Annotated[str, AfterValidator(_pool_text)]

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Nothing unknown, nothing converted, nothing that is no number."""
