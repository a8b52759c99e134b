"""What can be tuned about healing: budgets, playbooks, and which playbook treats which cause."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from policies.causes import CAUSES
from policies.disruption import DisruptionSettings
from policies.playbook import Playbook, escalation_cycle
from policies.playbook_catalogue import shipped_playbooks


class HealingSettings(DisruptionSettings):
    """How much may be disturbed at once, what is done about which trouble, and how often a human is told."""

    page_quiet_s: float = Field(
        900.0, ge=0, description="A page that was not wanted for this long, in seconds, is sent anew when it is again."
    )
    again_after_s: float = Field(
        1800.0, gt=0, description="Time in seconds after which a playbook that failed is tried again, if it is needed."
    )
    playbooks: Mapping[str, Playbook] = Field(
        default_factory=dict,
        max_length=64,
        description="Playbooks by name, beside the shipped ones or, under the name of one, instead of it.",
    )
    treatments: Mapping[str, str] = Field(
        default_factory=dict,
        description="Playbook by cause, where it is not the shipped one; an empty name for none at all.",
    )

    @model_validator(mode="after")
    def _known_playbooks(self) -> HealingSettings:
        known = {**shipped_playbooks(), **self.playbooks}
        for name, playbook in self.playbooks.items():
            further = playbook.escalates_to
            if further is not None and further not in known:
                what = f"there is no playbook {further!r}; known: {', '.join(known)}"
                raise _wrong(what, "playbooks", name, "escalates_to")
            if further is not None and known[further].scope != playbook.scope:
                what = f"{further} is about a {known[further].scope}, and {name} about a {playbook.scope}"
                raise _wrong(what, "playbooks", name, "escalates_to")
        if circle := escalation_cycle(known):
            own = next(name for name in circle if name in self.playbooks)
            raise _wrong(f"playbooks escalate in a circle: {' -> '.join(circle)}", "playbooks", own, "escalates_to")
        for cause, name in self.treatments.items():
            if cause not in CAUSES:
                raise _wrong(f"there is no cause {cause!r}; known: {', '.join(CAUSES)}", "treatments", cause)
            if name and name not in known:
                raise _wrong(f"there is no playbook {name!r}; known: {', '.join(known)}", "treatments", cause)
            if name and known[name].scope != CAUSES[cause].scope:
                what = f"{name} is about a {known[name].scope}, and {cause} is told of a {CAUSES[cause].scope}"
                raise _wrong(what, "treatments", cause)
        return self

    @cached_property
    def all_playbooks(self) -> Mapping[str, Playbook]:
        """The shipped playbooks and those of the settings, which go before."""
        return {**shipped_playbooks(), **self.playbooks}

    def playbook_for(self, cause: str) -> str:
        """Return the name of the playbook that treats a cause; empty for none."""
        return self.treatments.get(cause, CAUSES[cause].playbook)


def _wrong(what: str, *at: str) -> PydanticCustomError:
    return PydanticCustomError("playbook", "{what}", {"what": what, "at": at})
