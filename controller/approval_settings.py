"""Who may approve, where do approvals arrive, and how long do they hold?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from controller.approver_keys import KEY_PREFIX, public_key_in

DAY_S = 86_400.0
MOST_APPROVERS = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def is_approver_name(name: str) -> bool:
    """Whether an approver can be called that: letters, digits and ``._@-``, at most 64."""
    return _NAME.fullmatch(name) is not None


class ApprovalSettings(BaseModel):
    """What holds for classes of action in mode ``approve``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(
        Path("foresail-runs/approvals"),
        description="Folder that proposals are written to and approvals are read from (in its inbox). Nobody but the "
        "daemon may write it; the inbox may be opened to a group of approvers.",
    )
    approvers: Mapping[str, str] = Field(
        default_factory=dict,
        max_length=MOST_APPROVERS,
        description="Public key of each person who may approve, as printed by `foresail approvals keygen NAME` "
        "(ed25519:...), or the path of a file that holds it. Read when settings are.",
    )
    lifetime_s: float = Field(
        600.0, gt=0, le=DAY_S, description="Seconds for which an approval holds where `--for` says nothing else."
    )
    max_lifetime_s: float = Field(
        3600.0, gt=0, le=DAY_S, description="Longest that an approval may hold, in seconds; a longer one is refused."
    )
    wait_s: float = Field(
        3600.0,
        gt=0,
        le=DAY_S,
        description="Seconds that a proposal waits; one that is still wanted then is told again.",
    )

    @field_validator("approvers")
    @classmethod
    def _well_formed(cls, approvers: Mapping[str, str]) -> Mapping[str, str]:
        for name, key in approvers.items():
            if not is_approver_name(name):
                raise ValueError(f"{name!r} is no name for an approver: letters, digits and ._@- alone")
            if not key:
                raise ValueError(f"{name} has no key")
            if key.startswith(KEY_PREFIX):
                public_key_in(key)
        return approvers

    @model_validator(mode="after")
    def _default_within_most(self) -> ApprovalSettings:
        if self.lifetime_s > self.max_lifetime_s:
            raise ValueError(
                f"lifetime_s {self.lifetime_s:g} is more than max_lifetime_s {self.max_lifetime_s:g} allows"
            )
        return self
