"""Would it decide the same again? A recorded tick, turned back into what its decision was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controller.errors import BadInput
from forecasting.forecast import LoadForecast
from policies.decide import PolicySettings, decide
from policies.decisions import Decision
from policies.fleet import FleetState
from policies.memory import PolicyMemory
from policies.wire import digest
from policies.wire_reader import read_back


@dataclass(frozen=True, slots=True)
class DecisionInputs:
    """All that a decision was made from, but for the settings, of which there is the digest."""

    fleet: FleetState
    forecasts: Mapping[str, LoadForecast]
    memory: PolicyMemory
    settings_digest: str


def inputs_of(record: Mapping[str, Any]) -> DecisionInputs:
    """Return what the decision in ``record`` was made from; ``record`` is a tick's record as the audit log holds it.

    Raises:
        BadInput: If nothing was decided in that tick, or the record does not hold what it was decided from.
    """
    if not record.get("decision"):
        raise BadInput("nothing was decided in this tick", "record", "choose one with a decision")
    try:
        return DecisionInputs(
            read_back(FleetState, record["fleet"]),
            {model: read_back(LoadForecast, written) for model, written in record["forecasts"].items()},
            read_back(PolicyMemory, record["memory"]),
            record["decision"]["settings_digest"],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(f"the record cannot be replayed: {error}", "record", "it was not written like this") from error


def decided_again(record: Mapping[str, Any], settings: PolicySettings) -> Decision:
    """Return what ``decide`` makes of the inputs in ``record``: the same decision, digest included, unless it changed.

    Raises:
        BadInput: If the record cannot be replayed, or its decision was made with other settings.
    """
    inputs = inputs_of(record)
    if digest(settings) != inputs.settings_digest:
        raise BadInput("the decision was made with other settings", "settings", "give those of that time")
    return decide(inputs.fleet, inputs.forecasts, inputs.memory, settings)
