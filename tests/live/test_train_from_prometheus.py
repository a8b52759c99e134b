"""Can a model be trained on the load that a real Prometheus has recorded?"""

from __future__ import annotations

from pathlib import Path

import pytest

import foresail
from controller.errors import BadInput
from forecasting.series import CHANNELS
from tests.builders import KEY
from tests.builders_live_fleet import RATE, ScrapedFleet, WatchedLoop
from tests.builders_prometheus import free_port
from training.live_history import histories_in_prometheus


@pytest.fixture
def scraped(fleet: ScrapedFleet) -> ScrapedFleet:
    """The fleet, once its load is known."""
    loop = WatchedLoop(fleet)
    loop.until_well()
    loop.close()
    return fleet


def test_load_that_was_scraped_becomes_a_history_per_model(scraped: ScrapedFleet, tmp_path: Path) -> None:
    config = tmp_path / "foresail.yaml"
    config.write_text("prometheus:\n  url: http://127.0.0.1:1\n  attempts: 1\n")
    shares: list[float] = []
    (history,) = histories_in_prometheus(scraped.server.url, config, 1.0, 3600.0, shares.append)
    assert history.name == KEY.model
    assert history.observed_channels == CHANNELS
    # Prometheus has been there for less than the minute over which growth is taken: part of it is what grew.
    assert 0.0 < history.series.values[-1, 0] <= 1.1 * RATE * 4
    assert history.series.values[-1, 1] == pytest.approx(100.0 * history.series.values[-1, 0])
    assert shares[-1] == 1.0


def test_a_store_without_load_is_bad_input_and_one_that_is_down_a_failure(
    scraped: ScrapedFleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "foresail.yaml"
    config.write_text("prometheus:\n  pool_label: nobody_has\n  model_label: this\n  attempts: 1\n")
    with pytest.raises(BadInput, match="no load of any model"):
        histories_in_prometheus(scraped.server.url, config, 60.0, 3600.0, lambda _: None)
    store = f"--store=sqlite:///{tmp_path / 'mlflow.db'}"
    assert foresail.main(["train", "--prometheus", f"http://127.0.0.1:{free_port()}", "-c", str(config), store]) == 1
    assert "cannot be reached" in capsys.readouterr().err
    assert foresail.main(["train", "--prometheus", "file:///etc/passwd", store]) == 2
    assert "only http and https" in capsys.readouterr().err
