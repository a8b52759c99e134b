"""Can a human see what waits and answer it, and is everything that cannot be meant refused in a line?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import foresail
from controller.adapters.system_clock import SystemClock
from controller.approver_keys import read_key_file
from controller.plans import plan_digest
from tests.builders import KEY, FixedClock
from tests.builders_approvals import APPROVERS, RESTART, SHIFT, Desk, outcomes


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = foresail.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


class Office:
    """A desk that is asked for real: keys in files, settings, and the clock of the machine."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.desk = Desk(folder / "approvals", clock=FixedClock(SystemClock().now()))
        self.key, self.file = folder / "carol.key", folder / "foresail.yaml"
        code, out, _ = run(capsys, "approvals", "keygen", "carol", "--out", self.key)
        assert code == 0
        self.settings(out)
        known = {**APPROVERS, "carol": read_key_file(self.key).public}
        self.desk.approvals._approvers = known

    def settings(self, line: str) -> None:
        self.file.write_text(
            f"policy: {{pools: {{{KEY}: {{profile: llama-3.1-8b-l40s-tp1}}}}}}\n"
            "modes: {healing: approve}\n"
            f"approvals:\n  folder: '{self.folder}/approvals'\n  approvers:\n    {line}\n"
        )

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        return run(self.capsys, *arguments)

    @property
    def plan_id(self) -> str:
        return plan_digest(RESTART, self.desk.fleet)[:12]


@pytest.fixture
def office(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Office:
    made = Office(tmp_path, capsys)
    made.desk.tick(RESTART)
    return made


def test_what_waits_is_listed_approved_and_then_done(office: Office) -> None:
    code, out, err = office("approvals", "list", "-c", office.file)
    assert (code, err) == (0, "")
    for part in (office.plan_id, "restart", f"{KEY}/a2", "cause F1", "life a2#0", "why: not said"):
        assert part in out
    code, out, err = office("approve", office.plan_id, "-c", office.file, "--key", office.key, "--for", "5m")
    assert (code, err) == (0, "")
    assert f"carol approves {office.plan_id}: restart pool m/a/unified, replica a2, cause F1" in out
    office.desk.clock.at = SystemClock().now()
    assert outcomes(office.desk.tick(RESTART)) == [("restart", "done")]
    office.desk.tick()
    _, out, _ = office("approvals", "list", "-c", office.file)
    assert "nothing" in out


def test_machines_are_told_the_same(office: Office) -> None:
    code, out, _ = office("approvals", "list", "-c", office.file, "--json")
    (listed,) = json.loads(out)["proposals"]
    assert code == 0
    assert listed["id"] == office.plan_id == listed["digest"][:12]
    assert (listed["act"], listed["action_class"], listed["facts"]["life"]) == ("restart", "healing", "a2#0")
    assert listed["until_at"] > listed["since_at"]
    arguments = ("-c", office.file, "--key", office.key, "--json")
    code, out, _ = office("approve", office.plan_id, *arguments)
    answered = json.loads(out)
    assert (code, answered["verdict"], answered["approver"], answered["proposal"]) == (0, "approve", "carol", listed)
    assert answered["until_at"] - answered["from_at"] == pytest.approx(600.0)


def test_what_is_rejected_is_not_proposed_for_a_while(office: Office) -> None:
    office("reject", office.plan_id, "-c", office.file, "--key", office.key, "--for", "1h", "--why", "not today")
    office.desk.clock.at = SystemClock().now()
    (held,) = office.desk.tick(RESTART)
    assert held.detail.startswith("rejected by carol (until ")
    assert held.detail.endswith("): not today")
    assert office.desk.approvals.pending == ()


def test_a_key_is_made_for_a_name_and_never_twice(office: Office, tmp_path: Path) -> None:
    code, out, _ = office("approvals", "keygen", "dave", "--out", tmp_path / "dave.key", "--json")
    made = json.loads(out)
    assert (code, made["name"], made["public_key"][:8]) == (0, "dave", "ed25519:")
    code, _, err = office("approvals", "keygen", "dave", "--out", tmp_path / "dave.key")
    assert (code, "there is a file already" in err) == (2, True)
    code, _, err = office("approvals", "keygen", "dave, or so", "--out", tmp_path / "other.key")
    assert (code, "no name for an approver" in err) == (2, True)
    assert not (tmp_path / "other.key").exists()


@pytest.mark.parametrize(
    ("plan_id", "said", "what"),
    [
        ("0123456789ab", (), "no plan '0123456789ab' waits"),
        ("", (), "no plan '' waits"),
        ("ID", ("--for", "soon"), "'soon' is no time"),
        ("ID", ("--for", "0"), "'0' is no time"),
        ("ID", ("--for", "-5m"), "'-5m' is no time"),
        ("ID", ("--for", "2h"), "at most approvals.max_lifetime_s (3600 s)"),
        ("ID", ("--for", "9" * 400 + "s"), "is no time"),
    ],
)
def test_an_answer_that_cannot_be_meant_is_refused(
    office: Office, plan_id: str, said: tuple[str, ...], what: str
) -> None:
    named = office.plan_id if plan_id == "ID" else plan_id
    code, out, err = office("approve", named, "-c", office.file, "--key", office.key, *said)
    assert (code, out) == (2, "")
    assert what in err
    assert "Traceback" not in err
    assert office.desk.inbox == []


def test_too_long_a_reason_is_refused(office: Office) -> None:
    code, _, err = office("reject", office.plan_id, "-c", office.file, "--key", office.key, "--why", "x" * 201)
    assert code == 2
    assert "why" in err
    assert "200 characters" in err


def test_a_reason_of_several_lines_is_refused_in_words(office: Office) -> None:
    code, _, err = office("reject", office.plan_id, "-c", office.file, "--key", office.key, "--why", "no\nway")
    assert code == 2
    assert "--why 'no\\nway': this cannot stand in the record\n  -> write one line" in err


def test_a_key_of_nobody_and_a_key_that_others_read_are_refused(office: Office, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.key"
    office("approvals", "keygen", "stranger", "--out", stranger)
    code, _, err = office("approve", office.plan_id, "-c", office.file, "--key", stranger)
    assert (code, "this key belongs to no approver" in err) == (2, True)
    office.key.chmod(0o644)
    code, _, err = office("approve", office.plan_id, "-c", office.file, "--key", office.key)
    assert (code, f"chmod 600 {office.key}" in err) == (2, True)


def test_what_waited_for_a_daemon_that_is_gone_is_not_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    office = Office(tmp_path, capsys)
    office.desk.clock.at -= 7200.0
    office.desk.tick(SHIFT)
    _, out, _ = office("approvals", "list", "-c", office.file, "--json")
    assert json.loads(out) == {"proposals": []}


def test_without_a_daemon_there_is_nothing_to_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    office = Office(tmp_path, capsys)
    code, _, err = office("approvals", "list", "-c", office.file)
    assert (code, "no daemon has laid out proposals here" in err) == (2, True)
