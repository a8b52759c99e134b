"""Does the audit log hold what a decision was made from, so that it can be made again?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.adapters.sql_audit import SqlAudit
from controller.errors import BadInput
from controller.replay import decided_again, inputs_of
from forecasting.last_value import LastValueForecaster
from forecasting.series import LoadSeries
from policies.wire import canonical_json, digest
from simulations.case import prepare
from simulations.runner import replay
from tests.builders import a_bench, settings
from tests.builders_records import blind_tick, scaling_tick
from tests.builders_simulation import OUTPUT_TOKENS, PROMPT_TOKENS, RateTrace, quick_settings

HOLDS_SIXTEEN_REPLICAS_BYTES = 60_000


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqlAudit]:
    audit = SqlAudit.open(f"sqlite:///{tmp_path / 'audit.db'}")
    yield audit
    audit.close()


def test_every_decision_of_a_run_is_made_again_from_its_record(log: SqlAudit) -> None:
    """Growth, faults, healing and forecasts in six minutes, read back from the file, digests included."""
    load = np.tile([8.0, 8.0 * PROMPT_TOKENS, 8.0 * OUTPUT_TOKENS], (120, 1))
    given = quick_settings(lead_time_s=30.0, faults=("hang@60", "crash@150"))
    case = prepare(RateTrace([8, 20, 40, 40, 20, 8]), given, LoadSeries(-1800.0, 15.0, load))
    replay(case, "foresail", (LastValueForecaster(),), log)
    decided = [entry.record for entry in log.entries() if entry.record.get("decision")]
    assert len(decided) > 20
    assert sum(bool(record["decision"]["scaling"]) for record in decided) >= 1
    assert sum(bool(record["decision"]["remediations"]) for record in decided) >= 1
    assert sum(bool(record["forecasts"]) for record in decided) >= 10
    for record in decided:
        again = json.loads(canonical_json(decided_again(record, case.policy)))
        assert again == record["decision"]
    assert max(len(canonical_json(record)) for record in decided) < HOLDS_SIXTEEN_REPLICAS_BYTES


def recorded() -> Mapping[str, Any]:
    bench = a_bench()
    bench.tick()
    record: Mapping[str, Any] = json.loads(canonical_json(bench.audit.records[0]))
    return record


def test_the_digest_in_the_record_is_that_of_the_inputs_in_it() -> None:
    record = recorded()
    inputs = inputs_of(record)
    named = digest((inputs.fleet, inputs.forecasts, inputs.memory, inputs.settings_digest))
    assert named == record["decision"]["input_digest"]


def test_other_settings_than_those_of_the_time_are_refused() -> None:
    assert decided_again(recorded(), settings()).generation == 1
    with pytest.raises(BadInput, match="other settings"):
        decided_again(recorded(), settings(most=63))


def test_a_tick_without_a_decision_or_without_its_inputs_cannot_be_replayed() -> None:
    with pytest.raises(BadInput, match="nothing was decided"):
        inputs_of(json.loads(canonical_json(blind_tick(0.0))))
    with pytest.raises(BadInput, match="cannot be replayed"):
        inputs_of(json.loads(canonical_json(replace(scaling_tick(0.0), memory=None))))
