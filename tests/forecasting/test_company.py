"""Who is asked together, and what is left when some of them cannot answer?"""

from __future__ import annotations

import numpy as np

from forecasting.company import Company, forecasters_of
from forecasting.forecast import Trust
from forecasting.judged import JudgedChain
from forecasting.series import REQUESTS
from forecasting.trust import TrustSettings
from tests.forecasting.test_judged import FittedElsewhere, Scaled, load


def days(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    minutes = np.arange(count * 1440)
    return np.asarray(20.0 + 12.0 * np.sin(2 * np.pi * minutes / 1440.0) + rng.normal(0.0, 0.5, len(minutes)))


def test_nobody_is_asked_where_none_shall_be() -> None:
    assert forecasters_of(Company.NONE, Scaled(1.0)) == ()
    (answer,) = JudgedChain(forecasters_of(Company.NONE, None), TrustSettings()).answer_many([load(days(1))], [5])
    assert answer.forecast is None


def test_a_plain_forecaster_always_comes_last() -> None:
    for company in (Company.SINGLE, Company.COMBINED):
        for model in (None, Scaled(1.0)):
            assert forecasters_of(company, model)[-1].name == "local-level"


def test_a_company_names_its_model_and_is_judged_by_its_own_record() -> None:
    chain = JudgedChain(forecasters_of(Company.COMBINED, FittedElsewhere(1.0)), TrustSettings())
    (answer,) = chain.answer_many([load(days(3))], [5])
    assert answer.forecast is not None
    assert answer.forecast.source == "combined with scaled"
    assert answer.forecast.trust is Trust.FULL
    assert "less loss than the last value" in answer.forecast.trust_reason


def test_one_bad_member_hardly_matters() -> None:
    """It loses its weight, and nothing is lost with it."""
    history = load(days(3))
    came = days(4)[3 * 1440 : 3 * 1440 + 5]
    told = {}
    for factor in (1.0, 5.0):
        chain = JudgedChain(forecasters_of(Company.COMBINED, FittedElsewhere(factor)), TrustSettings())
        (answer,) = chain.answer_many([history], [5])
        assert answer.forecast is not None
        told[factor] = answer.forecast.at_level(0.5)[:, REQUESTS]
    assert np.abs(told[5.0] - came).mean() < np.abs(told[1.0] - came).mean() + 1.0
