"""How good is the shipped detector on the part of the Numenta Anomaly Benchmark that is beside the checkout?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reference.nab_corpus import corpus_in, elsewhere_score, events_of, scores_of
from tests.reference.nab_scorer import PROFILES, best_sweep, score_at


@pytest.mark.slow
def test_the_detector_does_well_on_nab(recorded_traces: Path) -> None:
    folder = recorded_traces / "nab"
    if not folder.is_dir():
        pytest.skip("no NAB series among the recorded traces")
    corpus = corpus_in(folder)
    scores = [scores_of(series) for series in corpus]
    labelled = [series.labelled for series in corpus]
    assert best_sweep(labelled, scores, PROFILES["standard"]).score >= 55.0
    # Neither the threshold chosen on other series nor the default one may be what carries it.
    assert elsewhere_score(corpus, scores) >= 55.0
    assert elsewhere_score(corpus, scores, whole_folders=True) >= 55.0
    assert score_at(labelled, scores, PROFILES["standard"], 0.5) >= 55.0
    events = events_of(corpus, scores, 0.5)
    assert events.recall >= 0.7
    assert events.precision >= 0.4
    assert events.false_alarms_per_day <= 0.15
