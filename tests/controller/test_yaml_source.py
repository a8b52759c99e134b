"""Does the small YAML say exactly what was written, where, and refuse the rest?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.yaml_source import MAX_BYTES, MAX_DEPTH, Mark, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# only a comment\n", None),
        ("---\n", None),
        ("a: 1\nb: 1.5\nc: 1e-3\nd: .5\n", {"a": 1, "b": 1.5, "c": 0.001, "d": 0.5}),
        ("a: true\nb: False\nc: null\nd: ~\ne:\n", {"a": True, "b": False, "c": None, "d": None, "e": None}),
        ("[1, [two, 3.0]]", [1, ["two", 3.0]]),
        ("a: {b: [c]}", {"a": {"b": ["c"]}}),
        ("a: &x {b: 1}\nc: *x\n", {"a": {"b": 1}, "c": {"b": 1}}),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 007", {"a": 7}),
    ],
)
def test_plain_values_are_read(text: str, value: object) -> None:
    read = read_yaml(text.encode())
    assert read.problems == ()
    assert read.value == value


@pytest.mark.parametrize(
    "word", ["yes", "on", "NO", "1:30", "2026-01-01", "0x10", "1_000", ".inf", ".nan", "nan", "'5'"]
)
def test_what_yaml_is_known_to_surprise_with_stays_text(word: str) -> None:
    assert read_yaml(f"a: {word}".encode()).value == {"a": word.strip("'")}


def test_every_key_and_item_knows_its_line_and_column() -> None:
    marks = read_yaml(b"a:\n  b: 1\n  c:\n    - x\n    - y\n").marks
    assert marks["a", "c", 1] == Mark(5, 7)
    assert marks["a", "b"] == Mark(2, 3)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (b"a: 1\na: 2\n", 2, "given twice"),
        (b"a:\n\tb: 1\n", 2, "tab"),
        (b"a: [1, 2\n", 2, "not valid YAML"),
        (b"a: b: c\n", 1, "not valid YAML"),
        (b"a: 1\n  b: 2\n", 2, "not valid YAML"),
        (b"a: *nowhere\n", 1, "undefined alias"),
        (b"a: 1\n---\nb: 2\n", 2, "not valid YAML"),
        (b"a: !!python/object:os.system x\n", 1, "tag"),
        (b"a: !mine 5\n", 1, "tag"),
        (b"a: &x {}\nb: {<<: *x}\n", 2, "merge"),
        (b"? [a, b]\n: 1\n", 1, "a key must be a word"),
        (b"ok: 1\na: \xff\n", 2, "not UTF-8"),
        (b"ok: 1\na: \x00\n", 2, "cannot stand"),
        (b"a: " + b"9" * 5000, 1, "not a number in reach"),
        (b"a: 1e999", 1, "not a number in reach"),
        (b"a: !!int x", 1, "not a number in reach"),
    ],
)
def test_a_bad_text_is_reported_with_its_line(text: bytes, line: int, what: str) -> None:
    problems = read_yaml(text).problems
    assert len(problems) == 1
    assert what in problems[0].what
    assert problems[0].mark is not None
    assert problems[0].mark.line == line
    assert problems[0].remedy


def test_all_duplicates_are_reported_and_the_first_value_stays() -> None:
    read = read_yaml(b"a: 1\na: 2\nb: {c: 1, c: 2}\n")
    assert [p.key for p in read.problems] == [("a",), ("b", "c")]
    assert read.value == {"a": 1, "b": {"c": 1}}


def test_aliases_cannot_multiply_without_bound() -> None:
    levels = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 12)]
    problems = read_yaml("\n".join(levels).encode()).problems
    assert "more than" in problems[0].what


def test_an_alias_to_its_own_container_is_refused() -> None:
    assert "nested too deeply" in read_yaml(b"a: &a [*a]\n").problems[0].what


@pytest.mark.parametrize("text", [b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), b"[" * 100_000, b"{a: " * 50_000])
def test_deep_nesting_is_refused(text: bytes) -> None:
    assert read_yaml(text).problems


def test_a_huge_text_is_refused_unread() -> None:
    assert "too much" in read_yaml(b" " * (MAX_BYTES + 1)).problems[0].what


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
def test_no_text_whatever_raises(content: bytes) -> None:
    read = read_yaml(content)
    assert all(problem.what and problem.remedy for problem in read.problems)
