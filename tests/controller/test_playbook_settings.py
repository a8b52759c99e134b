"""Is a playbook that an operator adds refused at the very line and column of what is wrong with it?"""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

import pytest

from controller.setting_problems import BadSettings, SettingProblem
from controller.settings import load_settings
from policies.facts import FACTS
from policies.playbook import MOST_DEPTH, MOST_STEPS
from policies.playbook_catalogue import shipped_playbooks

PLAYBOOKS = Path(__file__).resolve().parents[2] / "policies" / "playbooks"
HEAD = """\
policy:
  healing:
    playbooks:
      mine:
        title: a try
        scope: replica
        deadline: 1000 s + 4 lead times
        steps:
"""
FIRST = HEAD.count("\n") + 1
"""Line of the first step."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "foresail.yaml"


def problems_of(file: Path, text: str) -> list[SettingProblem]:
    file.write_text(text)
    with pytest.raises(BadSettings) as caught:
        load_settings(file)
    return list(caught.value.problems)


def only_problem(file: Path, text: str) -> SettingProblem:
    problems = problems_of(file, text)
    assert len(problems) == 1, [str(p) for p in problems]
    return problems[0]


def with_steps(steps: str, **changes: str) -> str:
    head = HEAD
    for key, value in changes.items():
        before = next(line for line in HEAD.splitlines() if line.strip().startswith(f"{key}:"))
        head = head.replace(before, f"        {key}: {value}")
    return head + indent(steps, " " * 10)


RESTART = "- {do: restart, deadline: 2 lead times}\n"
PAGE = "- page: hello\n"


def test_a_playbook_without_a_problem_is_taken(file: Path) -> None:
    file.write_text(with_steps("- {do: cordon, undo: uncordon, deadline: 60}\n" + RESTART + PAGE))
    assert list(load_settings(file).policy.healing.playbooks) == ["mine"]


@pytest.mark.parametrize("name", sorted(shipped_playbooks()))
def test_every_shipped_playbook_may_be_copied_into_a_settings_file(file: Path, name: str) -> None:
    source = PLAYBOOKS / f"{name}.yaml"
    file.write_text("policy:\n  healing:\n    playbooks:\n      copy:\n" + indent(source.read_text(), " " * 8))
    assert load_settings(file).policy.healing.playbooks["copy"] == shipped_playbooks()[name]


@pytest.mark.parametrize(
    ("steps", "line", "column", "key", "what"),
    [
        # the step itself
        ("- {do: dance, deadline: 3 s}\n", 0, 14, "steps.0.do", "'roll back', not \"dance\""),
        ("- do: restart\n", 0, 13, "steps.0.deadline", "needed and not given"),
        ("- wait_until: ready\n", 0, 13, "steps.0.deadline", "needed and not given"),
        ("- do: restart\n  deadline: soon\n", 1, 13, "steps.0.deadline", "no duration"),
        ("- do: restart\n  deadline: 0\n", 1, 13, "steps.0.deadline", "more than nothing"),
        ("- do: restart\n  deadline: 8000000 s\n", 1, 13, "steps.0.deadline", "at most 604800 s"),
        ("- do: restart\n  deadline: true\n", 1, 13, "steps.0.deadline", "no duration"),
        ("- do: restart\n  deadline: 9 s\n  wait_until: ready\n", 0, 13, "steps.0", "exactly one of"),
        ("- do: restart\n  page: x\n  end: failed\n", 0, 13, "steps.0", "this one has: do, page, end"),
        ("- name: nothing\n", 0, 13, "steps.0", "exactly one of"),
        ("- restart\n", 0, 13, "steps.0", "exactly one of"),
        ('- page: "\\e[31m"\n', 0, 13, "steps.0.page", "one line without control characters"),
        ('- page: "a\\nb"\n', 0, 13, "steps.0.page", "one line without control characters"),
        ("- do: restart\n  deadline: 9 s\n  deadlin: 9 s\n", 2, 13, "steps.0.deadlin", "no such setting"),
        ("- do: restart\n  deadline: 9 s\n  attempts: 11\n", 2, 13, "steps.0.attempts", "less than or equal to 10"),
        ("- end: perhaps\n", 0, 13, "steps.0.end", "'resolved' or 'failed'"),
        ("- repeat: [{page: x}]\n", 0, 13, "steps.0.attempts", "needed and not given"),
        ("- parallel:\n  - [{page: x}]\n", 0, 13, "steps.0.parallel", "at least 2 needed"),
        # what is inside of others
        (PAGE + "- if: ready\n  then:\n  - do: restart\n", 3, 15, "steps.1.then.0.deadline", "needed"),
        ("- if: ready\n  then: []\n  else: [{do: fly, deadline: 1}]\n", 2, 21, "steps.0.else.0.do", "fly"),
        ("- parallel:\n  - - page: x\n  - - page: y\n      pag: z\n", 3, 17, "steps.0.parallel.1.0.pag", "no such"),
        (
            "- sequence:\n  - repeat:\n    - {page: ''}\n    attempts: 2\n",
            2, 18, "steps.0.sequence.0.repeat.0.page", "at least 1 char",
        ),
        # conditions
        ("- {wait_until: flying, deadline: 1}\n", 0, 14, "steps.0.wait_until", "no fact 'flying'"),
        ("- {wait_until: sound, deadline: 1}\n", 0, 14, "steps.0.wait_until", "nothing that a replica has"),
        ("- {wait_until: silent_s, deadline: 1}\n", 0, 14, "steps.0.wait_until", "needs a number of seconds"),
        ("- {wait_until: {ready: 3}, deadline: 1}\n", 0, 27, "steps.0.wait_until.ready", "takes no number"),
        ("- {wait_until: {silent_s: -3}, deadline: 1}\n", 0, 27, "steps.0.wait_until.silent_s", "not -3"),
        ("- {wait_until: {any: []}, deadline: 1}\n", 0, 27, "steps.0.wait_until.any", "list of conditions"),
        (
            "- if:\n    all:\n    - ready\n    - any: [sick, {not: sound}]\n  then: []\n",
            3, 30, "steps.0.if.all.1.any.1.not", "sound is nothing that a replica has",
        ),
        ("- {do: restart, when: rolled_back, deadline: 1}\n", 0, 27, "steps.0.when", "nothing that a replica has"),
        # acts of another scope, and what takes them back
        ("- {do: pause, deadline: 1}\n", 0, 14, "steps.0.do", "done to a pool, and the playbook is about a replica"),
        ("- {do: cordon, deadline: 1, undo: resume}\n", 0, 39, "steps.0.undo", "resume is done to a pool"),
        ("- {do: restart, deadline: 1, undo: uncordon}\n", 0, 40, "steps.0.undo", "uncordon does not undo restart"),
        ("- {do: cordon, deadline: 1, undo: cordon}\n", 0, 39, "steps.0.undo", "cordon does not undo cordon"),
    ],
)  # fmt: skip
def test_a_bad_step_is_refused_at_its_place(
    file: Path, steps: str, line: int, column: int, key: str, what: str
) -> None:
    problem = only_problem(file, with_steps(steps))
    assert (problem.where, what in problem.what) == (f"{file}:{FIRST + line}:{column}", True), str(problem)
    named = f"policy.healing.playbooks.mine.{key}"
    assert problem.key == named
    assert problem.remedy


@pytest.mark.parametrize(
    ("steps", "deadline", "needed"),
    [
        ("- {do: restart, deadline: 2 lead times, attempts: 2, back_off_s: 300}\n", "900 s", "4 lead times"),
        ("- {do: restart, deadline: 100 s, attempts: 3, back_off_s: 300}\n", "1199 s", "1200 s"),
        ("- {wait_until: ready, deadline: 60}\n- {wait_until: ready, deadline: 60}\n", "119", "120 s"),
        ("- repeat: [{wait_until: ready, deadline: 60}]\n  attempts: 3\n  back_off_s: 10\n", "209", "210 s"),
        ("- if: ready\n  then: [{wait_until: empty, deadline: 90}]\n", "89", "90 s"),
        ("- parallel:\n  - [{wait_until: empty, deadline: 90}]\n  - [{page: x}]\n", "89", "90 s"),
    ],
)
def test_steps_that_may_take_longer_than_the_playbook_are_an_impossible_budget(
    file: Path, steps: str, deadline: str, needed: str
) -> None:
    problem = only_problem(file, with_steps(steps, deadline=deadline))
    assert problem.where == f"{file}:7:9"
    assert problem.key == "policy.healing.playbooks.mine.deadline"
    assert f"its steps may take {needed}" in problem.what


def test_what_is_advised_against_an_impossible_budget_can_be_written(file: Path) -> None:
    wait = "- {wait_until: ready, deadline: 123456.5}\n"
    problem = only_problem(file, with_steps(wait * 3, deadline="1"))
    assert problem.remedy == "write at least 370369.5 s, or shorten its steps"
    file.write_text(with_steps(wait * 3, deadline="370369.5 s"))
    assert str(load_settings(file).policy.healing.playbooks["mine"].deadline) == "370369.5 s"
    problem = only_problem(file, with_steps(wait * 9, deadline="1"))
    assert problem.remedy.startswith("shorten its steps: no playbook may take longer than 604800 s + 100 lead times")


def test_a_playbook_without_a_deadline_is_refused(file: Path) -> None:
    text = with_steps(PAGE).replace("        deadline: 1000 s + 4 lead times\n", "")
    problem = only_problem(file, text)
    assert (problem.where, problem.key) == (f"{file}:4:7", "policy.healing.playbooks.mine.deadline")


def test_too_many_steps_are_refused_at_the_first_that_is_too_many(file: Path) -> None:
    problem = only_problem(file, with_steps(PAGE * (MOST_STEPS + 1)))
    assert problem.where == f"{file}:{FIRST + MOST_STEPS}:13"
    assert f"at most {MOST_STEPS}" in problem.remedy


def test_steps_that_are_nested_too_deep_are_refused(file: Path) -> None:
    step = PAGE.strip().removeprefix("- ")
    for _ in range(MOST_DEPTH):
        step = f"sequence: [{{{step}}}]"
    problem = only_problem(file, with_steps(f"- {step}\n"))
    assert problem.where.startswith(f"{file}:{FIRST}:")
    assert f"nested {MOST_DEPTH + 1} deep" in problem.what


def test_conditions_that_are_nested_too_deep_are_refused(file: Path) -> None:
    condition = "ready"
    for _ in range(9):
        condition = f"{{not: {condition}}}"
    problem = only_problem(file, with_steps(f"- {{wait_until: {condition}, deadline: 1}}\n"))
    assert problem.where.startswith(f"{file}:{FIRST}:")
    assert "nested more than 8 deep" in problem.what


def test_every_bad_step_is_reported_and_nothing_else(file: Path) -> None:
    problems = problems_of(file, with_steps("- do: restart\n- {do: dance, deadline: 1}\n"))
    assert [p.where for p in problems] == [f"{file}:{FIRST}:13", f"{file}:{FIRST + 1}:14"]


def test_the_nearest_fact_is_suggested_and_all_are_listed(file: Path) -> None:
    problem = only_problem(file, with_steps("- {wait_until: redy, deadline: 1}\n"))
    assert problem.remedy.startswith("did you mean ready?")
    assert all(fact in problem.remedy for fact in FACTS)


# escalation


def two(first: str, second: str, scope: str = "replica") -> str:
    """Playbooks ``a`` and ``b``; line 8 and 14 are their ``escalates_to``."""
    text = "policy:\n  healing:\n    playbooks:\n"
    for name, further in (("a", first), ("b", second)):
        text += f"      {name}:\n        title: {name}\n        scope: {scope}\n        deadline: 10\n"
        text += "        steps: [{page: hello}]\n" + (f"        escalates_to: {further}\n" if further else "")
    return text


@pytest.mark.parametrize(
    ("text", "line", "key", "what"),
    [
        (two("b", "a"), 9, "a.escalates_to", "in a circle: a -> b -> a"),
        (two("b", "b"), 15, "b.escalates_to", "in a circle: b -> b"),
        (two("nothing", ""), 9, "a.escalates_to", "no playbook 'nothing'"),
        (two("", "fail-over"), 14, "b.escalates_to", "fail-over is about a pool, and b about a replica"),
        (two("b", "").replace("scope: replica", "scope: pool", 1), 9, "a.escalates_to", "b is about a replica"),
    ],
)
def test_an_escalation_that_cannot_be_is_refused(file: Path, text: str, line: int, key: str, what: str) -> None:
    problem = only_problem(file, text)
    assert (problem.where, problem.key) == (f"{file}:{line}:9", f"policy.healing.playbooks.{key}")
    assert what in problem.what


def test_a_circle_through_a_shipped_playbook_is_refused_at_ours(file: Path) -> None:
    text = two("eject-and-restart", "").replace("      a:\n", "      replace-elsewhere:\n")
    problem = only_problem(file, text)
    assert problem.where == f"{file}:9:9"
    assert "eject-and-restart" in problem.what


def test_a_shipped_playbook_may_not_be_replaced_by_one_of_another_scope(file: Path) -> None:
    text = two("", "", scope="pool").replace("      a:\n", "      replace-elsewhere:\n")
    problem = only_problem(file, text)
    assert (problem.where, problem.key) == (f"{file}:6:9", "policy.healing.playbooks.replace-elsewhere.scope")
    text = two("", "", scope="pool").replace("      a:\n", "      replace-slow:\n")
    assert only_problem(file, text).where == f"{file}:6:9"


@pytest.mark.parametrize("name", ['"a b"', '""', '"a/b"', '"-a"', '"ä"', "a" * 65])
def test_a_name_that_could_be_misread_is_refused(file: Path, name: str) -> None:
    problem = only_problem(file, two("", "").replace("      a:\n", f"      {name}:\n"))
    assert problem.where == f"{file}:4:7"
    assert "no name for a playbook" in problem.what


# treatments


@pytest.mark.parametrize(
    ("treatment", "what"),
    [
        ("hangs: a", "no cause 'hangs'"),
        ("unknown: a", "evidence of one kind only"),
        ("hang: c", "no playbook 'c'"),
        ("overload: a", "a is about a replica, and overload is told of a pool"),
        ("hang: hold-and-page", "hold-and-page is about a pool, and hang is told of a replica"),
    ],
)
def test_a_treatment_that_cannot_be_is_refused(file: Path, treatment: str, what: str) -> None:
    problem = only_problem(file, two("b", "") + f"    treatments:\n      {treatment}\n")
    cause = treatment.partition(":")[0]
    assert (problem.where, problem.key) == (f"{file}:16:7", f"policy.healing.treatments.{cause}")
    assert what in problem.what


def test_a_cause_may_be_left_untreated_or_given_to_an_own_playbook(file: Path) -> None:
    file.write_text(two("b", "") + '    treatments: {hang: a, straggler: ""}\n')
    healing = load_settings(file).policy.healing
    assert [healing.playbook_for(cause) for cause in ("hang", "straggler", "errors")] == ["a", "", "replace-failing"]
