"""Is a profile the least-squares fit to what AIConfigurator estimates, and is its absence said in words?"""

from __future__ import annotations

import importlib.util
import itertools

import pytest

from controller.errors import BadInput
from policies.profile_catalogue import profile_named
from training.aiconfigurator_profile import Wanted, modelled_profile

WANTED = Wanted("meta-llama/Meta-Llama-3.1-8B", "h100_sxm", 1, 434_494, 1024, 8192, 3.0)
INSTALLED = importlib.util.find_spec("aiconfigurator") is not None


def _nothing(_share: float) -> None:
    pass


def test_steps_that_are_a_formula_give_the_formula_back() -> None:
    shares: list[float] = []

    def estimate(mode: str, batch: int, context: int) -> tuple[float, float, str]:
        decode_ms = 6.0 + 0.01 * batch + 4e-5 * batch * context
        return (5.0 + 0.017 * context + 7e-7 * context**2 if mode == "static_ctx" else 0.0), decode_ms, "1.2.3"

    modelled = modelled_profile(WANTED, shares.append, estimate)
    profile = modelled.profile
    assert (profile.name, profile.gpu, profile.kv_cache_tokens) == ("meta-llama-3.1-8b-h100-tp1", "h100", 434_494)
    assert profile.decode_base_s == pytest.approx(6e-3)
    assert profile.decode_per_sequence_s == pytest.approx(1e-5)
    assert profile.decode_per_kv_token_s == pytest.approx(4e-8)
    assert profile.prefill_base_s == pytest.approx(5e-3)
    assert profile.prefill_per_token_s == pytest.approx(1.7e-5)
    assert profile.prefill_per_token2_s == pytest.approx(7e-10)
    assert modelled.decode_error == pytest.approx(0.0, abs=1e-9)
    assert "database 1.2.3" in profile.source
    assert all(earlier < later for earlier, later in itertools.pairwise(shares))
    assert shares[-1] == 1.0


@pytest.mark.skipif(INSTALLED, reason="the extra is installed")
def test_without_the_extra_it_is_said_how_to_get_it() -> None:
    with pytest.raises(BadInput, match="not installed") as caught:
        modelled_profile(WANTED, _nothing)
    assert "foresail[profiles]" in caught.value.remedy


@pytest.mark.skipif(not INSTALLED, reason="the extra `profiles` is not installed")
def test_the_real_model_gives_the_catalogues_profile() -> None:
    profile, known = modelled_profile(WANTED, _nothing).profile, profile_named("llama-3.1-8b-h100-tp1")
    assert profile.decode_base_s == pytest.approx(known.decode_base_s, rel=0.02)
    assert profile.prefill_per_token_s == pytest.approx(known.prefill_per_token_s, rel=0.02)
