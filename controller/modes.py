"""How far may Foresail go without a human, per class of action and per workload?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from controller.maintenance import Window


class Mode(StrEnum):
    """How far an action class may go; each includes those before it."""

    OBSERVE = "observe"  # decide and record
    RECOMMEND = "recommend"  # ... and tell
    APPROVE = "approve"  # ... and act on what somebody approved
    AUTO = "auto"  # act


class ActionClass(StrEnum):
    """What a mode is given for."""

    SCALING = "scaling"
    TRAFFIC = "traffic"
    HEALING = "healing"


class WorkloadModes(BaseModel):
    """Modes of one model, in place of those of the fleet. What is null is as for the fleet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scaling: Mode | None = Field(None, description="Replica counts of this model.")
    traffic: Mode | None = Field(None, description="Traffic weights of this model.")
    healing: Mode | None = Field(None, description="Replicas and rollouts of this model.")


class ModeSettings(BaseModel):
    """What may be done without a human. The default does nothing but look."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scaling: Mode = Field(
        Mode.OBSERVE, description="Replica counts: observe, recommend (tell a human), approve (wait for one) or auto."
    )
    traffic: Mode = Field(
        Mode.OBSERVE, description="Traffic weights between pools, and failover: observe, recommend, approve or auto."
    )
    healing: Mode = Field(
        Mode.OBSERVE,
        description="Replicas (cordon, uncordon, restart), nodes (avoid) and rollouts (pause, resume, roll back): "
        "observe, recommend, approve or auto.",
    )
    workloads: Mapping[str, WorkloadModes] = Field(
        default_factory=dict, description="Other modes of single workloads, by model."
    )
    maintenance: tuple[Window, ...] = Field((), description="Times in which acts are held, whatever the mode.")

    def of(self, action_class: ActionClass, model: str) -> Mode:
        """Return the mode of one class of action on one model.

        What is done to a node concerns whoever may be on it: without a ``model`` it is the most careful mode that is
        given to the fleet or to any workload.
        """
        if not model:
            return min((self.of(action_class, name) for name in (*self.workloads, "*")), key=tuple(Mode).index)
        workload = self.workloads.get(model)
        own: Mode | None = getattr(workload, action_class.value) if workload is not None else None
        fleet: Mode = getattr(self, action_class.value)
        return own if own is not None else fleet

    def may_act(self, action_class: ActionClass) -> bool:
        """Return whether acts of a class may be done at all, on any workload."""
        given = (getattr(self, action_class.value), *(getattr(w, action_class.value) for w in self.workloads.values()))
        return any(mode in (Mode.APPROVE, Mode.AUTO) for mode in given)

    def tells(self, subject: str) -> bool:
        """Return whether humans are paged about ``subject``: a model, or a stage, pool or replica of one, or neither.

        In every mode of healing but ``observe``.
        """
        names = [m for m in self.workloads if subject == m or subject.startswith((f"{m}/", f"{m} "))]
        return self.of(ActionClass.HEALING, max(names, key=len, default=subject)) is not Mode.OBSERVE

    def asking(self) -> Iterator[tuple[str, ...]]:
        """Yield the keys under ``modes`` that say ``approve``."""
        yield from ((name.value,) for name in ActionClass if getattr(self, name.value) is Mode.APPROVE)
        for model, modes in self.workloads.items():
            names = (name.value for name in ActionClass if getattr(modes, name.value) is Mode.APPROVE)
            yield from (("workloads", model, name) for name in names)

    @classmethod
    def all_auto(cls) -> ModeSettings:
        """Return modes in which everything acts by itself."""
        return cls(scaling=Mode.AUTO, traffic=Mode.AUTO, healing=Mode.AUTO)
