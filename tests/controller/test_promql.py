"""Are queries what they are meant to be, whatever stands in a label value?"""

from __future__ import annotations

import doctest
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.adapters import promql
from controller.adapters.promql import Grouping
from controller.signals.catalogue import Candidate, catalogue

POD = Grouping(("pod",), (), {"cluster": 'e"u'}, ("pod",))


def a_candidate(name: str = "x", **more: object) -> Candidate:
    return Candidate.model_validate({"name": name, **more})


def test_docstrings_show_what_happens() -> None:
    assert doctest.testmod(promql).failed == 0


@given(st.text())
def test_a_quoted_text_ends_where_it_was_meant_to_end(text: str) -> None:
    quoted = promql.quoted(text)
    assert quoted[0] == quoted[-1] == '"'
    assert re.search(r'(?<!\\)(?:\\\\)*"', quoted[1:-1]) is None
    assert "\n" not in quoted


def test_values_in_a_regular_expression_stand_for_themselves() -> None:
    assert promql.one_of(["a.b", "c|d"]) == r'"a\\.b|c\\|d"'


def test_a_label_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        promql.label('pod"} or up #')


def test_every_selector_carries_what_the_settings_ask_for() -> None:
    assert promql.figure([a_candidate()], POD, "sum") == 'sum by (pod) (x{cluster="e\\"u",pod!=""})'


def test_ranks_count_once_and_data_parallel_engines_add_up() -> None:
    grouping = Grouping(("pod",), ("tp_rank", "pp_rank"))
    assert promql.figure([a_candidate()], grouping, "sum") == "sum by (pod) (max without (tp_rank,pp_rank) (x{}))"


def test_of_several_names_each_replica_has_its_best() -> None:
    query = promql.figure([a_candidate("new"), a_candidate("old")], Grouping(("pod",)), "max")
    assert query == "max by (pod) (new{}) or on (pod) max by (pod) (old{})"


def test_a_ratio_of_several_parts_is_that_of_each_part_and_not_of_their_extremes() -> None:
    query = promql.figure([a_candidate(over="y")], Grouping(("pod",)), "min")
    assert query == "min by (pod) (x{} / y{})"
    assert promql.figure([a_candidate(over="y")], Grouping(("pod",)), "max") == "max by (pod) (x{} / y{})"
    assert promql.figure([a_candidate(over="y")], Grouping(("pod",)), "sum") == (
        "(sum by (pod) (x{}) / sum by (pod) (y{}))"
    )


def test_what_has_not_changed_lately_is_not_told() -> None:
    query = promql.changed([a_candidate()], Grouping(("pod",)), "max", 60.0)
    assert query == "max by (pod) (x{} and changes(x{}[60000ms]) > 0)"


def test_growth_is_taken_series_by_series_so_that_one_reset_spoils_no_sum() -> None:
    query = promql.figure([a_candidate()], Grouping(("model",)), "sum", over_s=300.0)
    assert query == "sum by (model) (increase(x{}[300000ms]))"


def test_units_sums_and_ratios_of_a_candidate_are_in_the_query() -> None:
    by = Grouping(("pod",))
    assert promql.figure([a_candidate(times=0.001)], by, "sum") == "(sum by (pod) (x{}) * 0.001)"
    assert promql.figure([a_candidate(times=0.001)], by, "sum", "_count") == "sum by (pod) (x_count{})"
    assert promql.figure([a_candidate(plus=("y",))], by, "sum") == (
        "(sum by (pod) (x{}) + (sum by (pod) (y{}) or sum by (pod) (x{}) * 0))"
    )


def test_reasons_are_chosen_by_label() -> None:
    finished = next(catalogue()["vllm"].candidates("finished_requests_total"))
    assert promql.selector(finished, Grouping(())) == 'vllm:request_success_total{finished_reason!~"abort|error"}'


def test_the_instant_of_a_sample_is_asked_for_and_not_that_of_the_evaluation() -> None:
    assert promql.sampled_at([a_candidate()], POD).startswith("max by (pod) (timestamp(x{")
