"""Can healing be tried out on a simulated trace without being let loose, and be judged afterwards?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foresail import main

HANG = ["--duration", "900", "--start", "0", "--initial", "4", "--min", "4", "--fault", "hang@120"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code = main([*(str(argument) for argument in arguments), "--json"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize(
    ("options", "verdicts", "done"),
    [
        ([], {}, ["cordon", "restart"]),
        (["--set", "modes.healing=observe"], {"cordon": "right", "restart": "right"}, []),
    ],
)
def test_a_mode_decides_whether_a_simulated_hang_is_healed_or_only_judged(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], verdicts: dict[str, str], done: list[str]
) -> None:
    run(capsys, "simulate", *HANG, *options, "--audit", tmp_path / "audit.db")
    (incident,) = run(capsys, "incidents", "--audit", tmp_path / "audit.db")["incidents"]
    assert incident["cause"] == "F1"
    assert {held["act"]: held["verdict"] for held in incident["would_have"]} == verdicts
    acts = [event["about"] for event in incident["events"] if event["what"] == "done"]
    assert [act for act in acts if act != "scale"] == done
    assert incident["state"] == ("recovered" if done else "ill")
