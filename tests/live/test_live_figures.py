"""Are the figures of a live run those of its files, also while these are being written?"""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from policies.fleet import PoolKey
from policies.slo import ServiceObjective
from simulations.live.audit_watch import AuditWatch
from simulations.live.client_figures import ClientFigures, row_of
from simulations.live.live_display import ClientLine, pool_row
from simulations.live.live_load import MOST_OUTPUT_TOKENS, default_load, write_trace
from simulations.live.live_options import DEFAULT_POOLS, LiveOptions, LivePlaces, PoolChoice, daemon_settings
from simulations.live.live_report import LiveReport, tell
from simulations.live.load_report import LoadRow
from simulations.live.stack import LiveFiles
from simulations.live_state import DecisionLine, Incident, Tally, ViewState
from simulations.trace_files import open_trace

OBJECTIVE = ServiceObjective()


def a_row(arrival_s: float, ttft_s: float = 0.2, error: str | None = None) -> LoadRow:
    late = math.nan if error else ttft_s
    return LoadRow(
        row=0, arrival_s=arrival_s, lateness_s=0.001, model="m", prompt_tokens=10, asked_tokens=5,
        tokens=0 if error else 5, status=0 if error else 200, ttft_s=late, tpot_s=math.nan if error else 0.03,
        e2e_s=1.0, error=error, replica="east-0",  # type: ignore[arg-type]  # one of the kinds of failure
    )  # fmt: skip


def a_view() -> ViewState:
    return ViewState(title="live", policy="foresail", forecaster="", begins_at=1000.0, ends_at=1100.0, at=1090.0)


def test_rows_are_counted_once_and_a_half_written_one_waits(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    figures = ClientFigures(file, OBJECTIVE)
    figures.look()  # nothing there yet
    assert math.isnan(figures.requests_per_s)
    lines = [json.dumps(a_row(float(at)).as_json()) + "\n" for at in range(40)]
    lines[3] = json.dumps(a_row(3.0, error="cut").as_json()) + "\n"
    lines[4] = json.dumps(a_row(4.0, ttft_s=9.0).as_json()) + "\n"
    text = "".join(lines)
    for length in (len(text) // 3, len(text) // 2, len(text)):
        file.write_text(text[:length])
        figures.look()
    summary = figures.summary()
    assert (summary.requests, summary.completed, summary.errors) == (40, 39, {"cut": 1})
    assert summary.slo_attainment_ratio == pytest.approx(38 / 40)
    assert figures.requests_per_s == pytest.approx(1.0, abs=0.05)
    assert "1 cut" in str(ClientLine(figures.requests_per_s, summary))


def test_a_row_comes_back_as_it_was_written() -> None:
    for row in (a_row(1.0), a_row(2.0, error="timeout")):
        again = row_of(json.loads(json.dumps(row.as_json())))
        assert repr(again) == repr(row)


def test_without_an_audit_log_there_is_nothing_to_tell(tmp_path: Path) -> None:
    watch = AuditWatch(tmp_path / "audit.db", a_view())
    watch.look(Tally())
    assert watch.view == a_view()
    watch.close()


def test_the_report_names_figures_reasons_and_places(tmp_path: Path) -> None:
    from dataclasses import replace

    figures = ClientFigures(tmp_path / "none", OBJECTIVE)
    incident = Incident(1050.0, 1040.0, "F1", "east-0", "east", "engine hangs", ((1051.0, "restarted"),), 1070.0)
    view = replace(
        a_view(), decisions=(DecisionLine(1010.0, "east 1 -> 2 replicas", "load to come"),), incidents=(incident,)
    )
    report = LiveReport(
        view, figures.summary(), OBJECTIVE, 0.5, 1.25, 100.0, 3, Counter({("scale", "done"): 1}), Counter(ready=3),
        ((1020.0, "envoy ended with code 1, again in 1 s"),),
    )  # fmt: skip
    files = LiveFiles(tmp_path)
    report.write(files)
    written = json.loads(files.summary.read_text())
    assert written["decisions"] == [{"at_s": 10.0, "what": "east 1 -> 2 replicas", "why": "load to come"}]
    assert written["incidents"][0]["over_s"] == 70.0
    assert written["slo_attainment_ratio"] is None
    console = Console(file=io.StringIO(), width=120)
    tell(console, report, files)
    told = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    for words in ("1 scale done", "load to come", "F1 east-0: engine hangs", "envoy ended", str(files.audit)):
        assert words in told


def test_the_default_load_rises_and_fits_a_laptop(tmp_path: Path) -> None:
    file = tmp_path / "load.csv"
    count = write_trace(default_load(0), file)
    batches = list(open_trace(file).batches())
    assert count == sum(len(batch) for batch in batches)
    arrivals = [at for batch in batches for at in batch.arrival_s.tolist()]
    early, late = sum(at < 60 for at in arrivals) / 60, sum(360 <= at < 420 for at in arrivals) / 60
    assert 1 < early < 3
    assert 5 < late < 9
    assert max(batch.output_tokens.max() for batch in batches) <= MOST_OUTPUT_TOKENS
    assert write_trace(default_load(0, duration_s=60.0), file) < count


def test_the_daemons_settings_are_valid_and_the_users_file_wins_but_for_places(tmp_path: Path) -> None:
    import yaml

    from controller.settings import load_settings

    options = LiveOptions(tmp_path, tuple(map(PoolChoice.parse, DEFAULT_POOLS)))
    places = LivePlaces("http://127.0.0.1:1", "http://127.0.0.1:2", tmp_path / "t", tmp_path / "a", tmp_path / "k", 3)
    written = {
        "policy": {"tick_s": 3, "pools": {"other/pool/unified": {}}},
        "modes": {"healing": "observe"},
        "platform": {"url": "http://127.0.0.1:99"},
    }
    tree = daemon_settings(options, places, written)
    (tmp_path / "foresail.yaml").write_text(yaml.safe_dump(tree))
    settings = load_settings(tmp_path / "foresail.yaml")
    assert settings.policy.tick_s == 3
    assert (settings.modes.healing, settings.modes.scaling) == ("observe", "auto")
    assert set(settings.policy.pools) == {str(PoolKey(options.model, name)) for name in ("large", "small")}
    assert settings.platform is not None
    assert settings.platform.url == "http://127.0.0.1:2"
    assert settings.policy.lead_time.default_s == pytest.approx(23.0)


def test_a_pool_row_counts_what_the_platform_tells() -> None:
    from policies.fleet import Phase, PoolState, ReplicaState

    key = PoolKey("m", "east")
    phases = [Phase.READY, Phase.READY, Phase.PENDING, Phase.LOADING, Phase.DRAINING, Phase.FAILED]
    replicas = [ReplicaState(f"east-{n}", phase, 0.0, 0.0, cordoned=n == 1) for n, phase in enumerate(phases)]
    row = pool_row(PoolState(key, tuple(replicas), 5, 1), {key: 0.25})
    assert (row.ready, row.starting, row.draining, row.sick, row.desired, row.weight) == (1, 2, 1, 2, 5, 0.25)
