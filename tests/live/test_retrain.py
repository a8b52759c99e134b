"""Is the operator's command run as a child of its own, within its time, and ended with all that it started?"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from controller.retrain import TAIL_BYTES, Retraining, RetrainSettings

WAIT_S = 30.0


def settings(script: str, **changes: float) -> RetrainSettings:
    return RetrainSettings(command=(sys.executable, "-c", script), **changes)  # type: ignore[arg-type]


def gone(pid: int) -> bool:
    """Whether a process has ended; one that waits for its parent to notice has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + WAIT_S
    while not gone(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_its_exit_code_and_the_end_of_what_it_printed_are_told() -> None:
    result = Retraining().run(settings("import sys; print('x' * 9000); print('no data', file=sys.stderr); sys.exit(3)"))
    assert result.code == 3
    assert result.tail.endswith("no data")
    assert len(result.tail) <= TAIL_BYTES


def test_to_stop_after_a_run_ends_nobody_who_got_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    retraining = Retraining()
    assert retraining.run(settings("pass")).code == 0
    ended: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, _number: ended.append(group))
    retraining.stop()
    assert ended == []


def test_a_command_that_cannot_be_started_is_told() -> None:
    result = Retraining().run(RetrainSettings(command=("/nowhere/at/all",)))
    assert (result.code, "/nowhere/at/all" in result.tail) == (127, True)


def test_a_run_beyond_its_time_is_ended_with_its_children(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    result = Retraining().run(settings(script, timeout_s=2.0))
    assert result.code is None
    wait_until_gone(int((tmp_path / "pid").read_text()))


def test_stop_ends_a_run_and_begins_no_other(tmp_path: Path) -> None:
    retraining = Retraining()
    file = tmp_path / "pid"
    script = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    results = []
    thread = threading.Thread(target=lambda: results.append(retraining.run(settings(script))))
    thread.start()
    end = time.monotonic() + WAIT_S
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    retraining.stop()
    thread.join(WAIT_S)
    assert [result.code for result in results] == [None]
    assert gone(int(file.read_text()))
    assert retraining.run(settings("print('again')")).code is None


def test_the_command_runs_in_a_group_of_its_own() -> None:
    result = Retraining().run(settings("import os; print(os.getpgid(0) == os.getpid())"))
    assert result.tail == "True"


def test_a_run_that_takes_too_much_memory_is_ended_and_says_so() -> None:
    script = "import time; held = bytearray(200 * 2**20); held[::4096] = b'x' * len(held[::4096]); time.sleep(600)"
    result = Retraining().run(settings(script, max_memory_mib=100))
    assert result.code is None
    assert "more than the 100 of max_memory_mib" in result.ended


def test_it_stands_back_behind_others() -> None:
    result = Retraining().run(settings("import os; print(os.nice(0))", niceness=7))
    assert result.tail == "7"
