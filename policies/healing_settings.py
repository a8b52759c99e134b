"""What can be tuned about healing: budgets, playbooks, and which playbook treats which cause."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from pydantic import Field, model_validator

from policies.causes import CAUSES, UNKNOWN
from policies.disagreement import Disagreement
from policies.disruption import DisruptionSettings
from policies.facts import Key
from policies.playbook import Playbook, escalation_cycle
from policies.playbook_catalogue import shipped_playbooks


class HealingSettings(DisruptionSettings):
    """How much may be disturbed at once, what is done about which trouble, and how often a human is told."""

    page_quiet_s: float = Field(
        900.0, ge=0, description="A page that was not wanted for this long, in seconds, is sent anew when it is again."
    )
    blind_page_after_s: float = Field(
        180.0,
        ge=0,
        description="Time in seconds for which nothing could be observed, or a model not well enough for anything of "
        "it to be given up, after which a human is told, once. Stores are restarted within a minute or two.",
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
        known = self.all_playbooks
        for name in self.playbooks:
            if not _NAME.fullmatch(name):
                what = f"{name[:80]!r} is no name for a playbook"
                raise Disagreement(("playbooks", name), what, "use letters, digits, - and _ alone, at most 64")
        for name, playbook in known.items():
            self._check_escalation(name, playbook)
        if circle := escalation_cycle(known):
            own = next(name for name in circle if name in self.playbooks)
            what = f"playbooks escalate in a circle: {' -> '.join(circle)}"
            raise Disagreement(
                ("playbooks", own, "escalates_to"), what, "leave it out of the last one: a human is next"
            )
        for cause in self.treatments:
            if cause not in CAUSES:
                near = difflib.get_close_matches(cause, CAUSES, n=1, cutoff=0.6)
                hint = f"did you mean {near[0]}? " if near else ""
                what = f"there is no cause {cause[:80]!r}"
                raise Disagreement(("treatments", cause), what, f"{hint}known: {', '.join(CAUSES)}")
        if UNKNOWN.name in self.treatments:
            what = "nothing is done on evidence of one kind only"
            raise Disagreement(("treatments", UNKNOWN.name), what, "leave it out")
        for cause in CAUSES:
            self._check_treatment(cause, self.playbook_for(cause))
        return self

    def _check_escalation(self, name: str, playbook: Playbook) -> None:
        known, further = self.all_playbooks, playbook.escalates_to
        if further is None:
            return
        if further not in known:
            raise Disagreement(("playbooks", name, "escalates_to"), *_no_playbook(further, known))
        if known[further].scope != playbook.scope:
            what = f"{further} is about a {known[further].scope}, and {name} about a {playbook.scope}"
            mine: Key = (name, "escalates_to") if name in self.playbooks else (further, "scope")
            raise Disagreement(("playbooks", *mine), what, f"only one about a {playbook.scope} can take over")

    def _check_treatment(self, cause: str, name: str) -> None:
        known = self.all_playbooks
        if name and name not in known:
            raise Disagreement(("treatments", cause), *_no_playbook(name, known))
        if name and known[name].scope != CAUSES[cause].scope:
            what = f"{name} is about a {known[name].scope}, and {cause} is told of a {CAUSES[cause].scope}"
            mine: Key = ("treatments", cause) if cause in self.treatments else ("playbooks", name, "scope")
            possible = ", ".join(each for each, playbook in known.items() if playbook.scope == CAUSES[cause].scope)
            raise Disagreement(mine, what, f"about a {CAUSES[cause].scope}: {possible}")

    @property
    def all_playbooks(self) -> Mapping[str, Playbook]:
        """The shipped playbooks and those of the settings, which go before."""
        return {**shipped_playbooks(), **self.playbooks}

    def playbook_for(self, cause: str) -> str:
        """Return the name of the playbook that treats a cause; empty for none, and for a cause that is none of ours."""
        return self.treatments.get(cause, CAUSES.get(cause, UNKNOWN).playbook)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)


def _no_playbook(name: str, known: Mapping[str, Playbook]) -> tuple[str, str]:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no playbook {name[:80]!r}", f"{hint}known: {', '.join(known)}"
