"""Does an interrupted fit go on to the very same net, and is a foreign or damaged checkpoint refused?"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from controller.errors import BadInput
from tests.builders_training import Stopwatch, a_wave, small_settings
from training.checkpoint import Checkpoint, EpochScore
from training.dataset import split_in_time
from training.settings import TrainingSettings
from training.trainer import FittedNet, fit

SETTINGS = small_settings(max_epochs=4)


class Interrupted(Exception):
    pass


def fitted(
    checkpoint: Path | None = None,
    stop: Callable[[EpochScore], None] = lambda _: None,
    on_closing: Callable[[float], None] = lambda _: None,
    settings: TrainingSettings = SETTINGS,
    seed: int = 0,
) -> FittedNet:
    split = split_in_time(480, 0.15, 0.15)
    return fit(
        [a_wave(480, seed=seed)],
        [split],
        settings,
        Stopwatch(),
        stop,
        checkpoint=checkpoint,
        on_closing=on_closing,
    )


def after_epoch(number: int) -> Callable[[EpochScore], None]:
    def stop(score: EpochScore) -> None:
        if score.epoch == number:
            raise Interrupted

    return stop


def weights_of(one: FittedNet) -> np.ndarray:
    return np.concatenate([tensor.numpy().reshape(-1) for tensor in one.net.state_dict().values()])


def _never(_: object) -> None:
    raise AssertionError("there is nothing left to do")


@pytest.fixture(scope="module")
def whole() -> FittedNet:
    return fitted()


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "fit.safetensors"
    with pytest.raises(Interrupted):
        fitted(path, after_epoch(2))
    return path


def test_a_fit_interrupted_in_its_search_goes_on_to_the_same_net(whole: FittedNet, kept: Path) -> None:
    told: list[EpochScore] = []
    resumed = fitted(kept, told.append)
    assert [score.epoch for score in told] == [3, 4]
    np.testing.assert_array_equal(weights_of(resumed), weights_of(whole))
    assert [epoch.validation_loss for epoch in resumed.epochs] == [epoch.validation_loss for epoch in whole.epochs]
    assert (resumed.best_epoch, resumed.stopped) == (whole.best_epoch, whole.stopped)


def test_a_fit_interrupted_in_its_closing_goes_on_to_the_same_net(whole: FittedNet, tmp_path: Path) -> None:
    def stop(share: float) -> None:
        if share >= 0.5:
            raise Interrupted

    with pytest.raises(Interrupted):
        fitted(tmp_path / "fit", on_closing=stop)
    shares: list[float] = []
    resumed = fitted(tmp_path / "fit", after_epoch(1), shares.append)
    assert 0 < len(shares) < whole.closing_epochs
    np.testing.assert_array_equal(weights_of(resumed), weights_of(whole))


def test_a_fit_that_is_done_stays_until_it_is_registered_and_is_not_done_again(kept: Path, whole: FittedNet) -> None:
    fitted(kept)
    assert list(kept.parent.iterdir()) == [kept]
    again = fitted(kept, _never, _never)
    np.testing.assert_array_equal(weights_of(again), weights_of(whole))
    assert list(kept.parent.iterdir()) == [kept]


def test_the_time_spent_before_an_interrupt_counts(tmp_path: Path) -> None:
    settings = small_settings(max_epochs=50, max_fit_s=60.0, closing=False)
    split = split_in_time(480, 0.15, 0.15)
    with pytest.raises(Interrupted):
        fit([a_wave(480)], [split], settings, Stopwatch(tick_s=1.0), after_epoch(3), checkpoint=tmp_path / "fit")
    resumed = fit([a_wave(480)], [split], settings, Stopwatch(tick_s=1.0), checkpoint=tmp_path / "fit")
    alone = fit([a_wave(480)], [split], settings, Stopwatch(tick_s=1.0))
    # Reading the history again takes some seconds of this stopwatch too, so a few epochs fewer find room.
    assert 3 < len(resumed.epochs) <= len(alone.epochs)
    assert (np.diff([epoch.elapsed_s for epoch in resumed.epochs]) > 0).all()
    assert resumed.epochs[-1].elapsed_s <= 60.0


def test_a_checkpoint_of_other_settings_or_of_another_history_is_refused(kept: Path) -> None:
    before = kept.read_bytes()
    for other in ({"settings": small_settings(max_epochs=5)}, {"seed": 1}):
        with pytest.raises(BadInput, match="another history or with other settings"):
            fitted(kept, **other)  # type: ignore[arg-type]
    assert kept.read_bytes() == before
    # More time is no other fit.
    fitted(kept, settings=small_settings(max_epochs=4, max_fit_s=900.0))


@pytest.mark.parametrize("damage", [b"", b"\x80\x04cos\nsystem\n.", b"\xff" * 64])
def test_what_is_no_checkpoint_is_refused_with_a_remedy(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "fit"
    path.write_bytes(damage)
    with pytest.raises(BadInput, match="delete this one"):
        fitted(path)


def test_a_cut_checkpoint_a_foreign_one_and_a_folder_are_refused(kept: Path, tmp_path: Path) -> None:
    whole, arrays = kept.read_bytes(), load_file(kept)
    kept.write_bytes(whole[:-100])
    with pytest.raises(BadInput, match="damaged"):
        fitted(kept)
    save_file(arrays, kept)
    with pytest.raises(BadInput, match="no fit under way that this version knows"):
        fitted(kept)
    with pytest.raises(BadInput, match="no fit under way"):
        fitted(tmp_path)


def test_a_full_disk_ends_the_fit_and_leaves_the_last_checkpoint_whole(
    kept: Path, whole: FittedNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(BadInput, match="No space left on device"):
            fitted(kept)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    np.testing.assert_array_equal(weights_of(fitted(kept)), weights_of(whole))


def test_a_checkpoint_that_was_never_written_is_none(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "fit", "f").read() is None
