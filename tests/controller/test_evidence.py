"""Is it told to people, and on record, on what evidence rests; and are records without that read as before?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.sql_audit import AuditEntry, SqlAudit
from controller.evidence import believed_json
from controller.explain import as_text, sections_of
from controller.incidents.tables import as_json, story_of
from controller.incidents.ticks import Tick
from controller.replay import decided_again
from policies.wire import canonical_json
from tests.builders import KEY, settings
from tests.builders_incidents import Run, the_one

NEW = ("age_s", "coverage_ratio", "counts")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run in which one replica hangs and is healed."""
    there = Run(tmp_path / "audit.db")
    there.engine.hung = True
    there.run(300.0)
    return there


def first_ill(run: Run) -> AuditEntry:
    log = SqlAudit.open(f"sqlite:///{run.path}")
    try:
        return next(entry for entry in log.entries() if (entry.record.get("decision") or {}).get("diagnoses"))
    finally:
        log.close()


def as_before(record: Any) -> dict[str, Any]:
    """Return a record as it was written before evidence said what it rests on."""
    older: dict[str, Any] = json.loads(json.dumps(record))
    for anomaly in older["decision"]["anomalies"]:
        for name in NEW:
            del anomaly[name]
    for memory in (older["memory"], older["decision"]["memory"]):
        for known in memory["replicas"].values():
            known.pop("covered", None)
    return older


def text_of(entry: AuditEntry, record: Any) -> str:
    return "\n".join(map(as_text, sections_of(replace(entry, record=record))))


def test_explain_tells_on_what_evidence_rests(run: Run) -> None:
    entry = first_ill(run)
    told = text_of(entry, entry.record)
    assert "rests on" in told
    assert "0 s old, 100% seen" in told
    assert "100% seen" not in text_of(entry, as_before(entry.record))


def test_a_sentence_of_a_diagnosis_stays_as_short_as_it_was(run: Run) -> None:
    for diagnosis in first_ill(run).record["decision"]["diagnoses"]:
        assert " old" not in diagnosis["sentence"]


def test_the_story_of_an_incident_tells_on_what_each_belief_rested(run: Run) -> None:
    incident = the_one(run.incidents())
    shown = {section.title: section for section in story_of(incident, None)}["Evidence"]
    assert {row[2] for row in shown.rows} >= {"progress", "gateway"}
    assert all(row[3].endswith("% seen") for row in shown.rows)
    (first, *_) = as_json(incident, None)["beliefs"]
    assert all(each["age_s"] >= 0 and 0 <= each["coverage_ratio"] <= 1 for each in first["evidence"])
    assert [each["family"] for each in first["evidence"]]


def test_a_record_without_what_evidence_rests_on_is_read_and_decided_again(run: Run) -> None:
    entry = first_ill(run)
    older = as_before(entry.record)
    (belief,) = Tick("1", entry.at, older).beliefs
    assert all(each.get("age_s") is None for each in belief.evidence)
    again = json.loads(canonical_json(decided_again(older, settings(KEY))))
    assert again["diagnoses"] == older["decision"]["diagnoses"]
    assert again["remediations"] == older["decision"]["remediations"]
    assert again["reasons"] == older["decision"]["reasons"]


def test_status_has_the_evidence_beside_each_belief(run: Run) -> None:
    decision = decided_again(first_ill(run).record, settings(KEY))
    (told,) = believed_json(decision, 50)
    assert {each["family"] for each in told["evidence"]} >= {"progress", "gateway"}
    assert all(each["counts"] for each in told["evidence"])
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert believed_json(decision, 0) == believed_json(None, 50) == []
