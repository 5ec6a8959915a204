"""FCDD: loss, batches, heat maps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from assay.detectors.methods.fcdd import FCDD, NO_ANOMALIES, map_loss, masked_loss
from assay.detectors.registry import load_detector
from assay.detectors.training import checkpoints
from assay.errors import ConfigError, InputError, TrainingError
from assay.networks.fcn import field_of, upsampled
from assay.parts import read_part, write_part

SIDE = 16
Floats = NDArray[np.float32]


def gratings(n: int, seed: int) -> Floats:
    """Images of slanted waves of any phase, in [0, 1]."""
    rng = np.random.default_rng(seed)
    down, right = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = np.sin(6 * (down + right) + rng.uniform(0, 6, size=(n, 1, 1)))
    images = 0.5 + 0.3 * waves + 0.03 * rng.normal(size=(n, SIDE, SIDE))
    return images.clip(0, 1).reshape(n, -1).astype(np.float32)


def with_squares(n: int, seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Gratings with a black square of five pixels each, and where it is."""
    images, rng = gratings(n, seed).reshape(n, SIDE, SIDE), np.random.default_rng((seed, 1))
    masks = np.zeros(images.shape, dtype=np.bool_)
    for mask in masks:
        top, left = rng.integers(0, SIDE - 5, size=2)
        mask[top : top + 5, left : left + 5] = True
    return np.where(masks, np.float32(0), images).reshape(n, -1), masks


def make(**params: Any) -> FCDD:
    settings: dict[str, Any] = {"members": 2, "epochs": 25, "image_shape": (SIDE, SIDE), "device": "cpu"}
    return FCDD(**(settings | params))


@pytest.fixture(scope="module")
def fitted() -> FCDD:
    return make().fit(gratings(200, 0))


def test_the_loss_is_the_one_of_the_thesis() -> None:
    maps = torch.tensor([[[[3.0, 0.0], [-3.0, 0.0]], [[3.0, 0.0], [-3.0, 0.0]]]], dtype=torch.float64)
    a = (math.sqrt(10) - 1) / 2
    losses = map_loss(maps, torch.tensor([[False, True]]))
    assert losses[0].tolist() == pytest.approx([a, -math.log(1 - math.exp(-a))])


def test_gradients_are_finite_at_zero_and_far_away() -> None:
    for size in (0.0, 1e-20, 1e-3, 1.0, 1e4):
        maps = torch.full((1, 2, 2, 2), size, requires_grad=True)
        losses = map_loss(maps, torch.tensor([[False, True]]))
        losses.sum().backward()
        assert torch.isfinite(losses).all()
        assert torch.isfinite(maps.grad).all()


def test_heat_maps_show_where_a_square_is(fitted: FCDD) -> None:
    images, masks = with_squares(60, 1)
    maps = fitted.heat_maps(images)
    assert maps.shape == (60, SIDE, SIDE)
    assert maps.dtype == np.float32
    assert roc_auc_score(masks.ravel(), maps.ravel()) > 0.85
    scores = fitted.decision_function(np.concatenate([gratings(60, 2), images]))
    assert roc_auc_score(np.repeat([0, 1], 60), scores) > 0.9


def test_the_score_is_the_mean_of_the_map(fitted: FCDD) -> None:
    images = gratings(5, 3)
    phi = fitted.network_(torch.tensor(images, dtype=torch.float64).expand(2, -1, -1)).detach().numpy()
    expected = (np.sqrt(phi**2 + 1) - 1).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(fitted.decision_function(images), expected, rtol=1e-6)


def test_an_image_scores_the_same_alone_in_a_batch_and_after_saving(fitted: FCDD, tmp_path: Path) -> None:
    images = with_squares(700, 4)[0]
    scores, maps = fitted.decision_function(images), fitted.heat_maps(images[:40])
    alone = [fitted.decision_function(image[None])[0] for image in images[:40]]
    np.testing.assert_array_equal(alone, scores[:40])
    np.testing.assert_array_equal([fitted.heat_maps(image[None])[0] for image in images[:40]], maps)
    write_part(tmp_path, "detector", fitted.to_part())
    loaded: Any = load_detector(read_part(tmp_path, "detector"))
    np.testing.assert_array_equal(loaded.decision_function(images), scores)
    np.testing.assert_array_equal(loaded.heat_maps(images[:40]), maps)
    assert fitted.heat_maps(images[:0]).shape == (0, SIDE, SIDE)


def test_labelled_anomalies_are_learned_from() -> None:
    rows = np.concatenate([gratings(150, 0), 1 - gratings(30, 5).clip(0, 0.5)])
    labels = np.repeat([-1, 1], [150, 30])
    tested = np.concatenate([gratings(50, 6), 1 - gratings(50, 7).clip(0, 0.5)])
    for share in (0.0, 0.5, "auto"):
        scores = make(confetti=share, members=1).fit(rows, labels).decision_function(tested)
        assert roc_auc_score(np.repeat([0, 1], 50), scores) > 0.95


def test_without_any_anomalies_it_warns() -> None:
    notes = make(confetti=0.0, epochs=2, batch_size=20).fit(gratings(40, 0)).notes_
    assert notes == (NO_ANOMALIES,)
    assert make(epochs=2, batch_size=20).fit(gratings(40, 0)).notes_ == ()
    labels = np.repeat([-1, 1], [30, 10])
    assert make(confetti=0.0, epochs=2, batch_size=20).fit(gratings(40, 0), labels).notes_ == ()


def test_members_equal_those_trained_alone() -> None:
    one, two = (make(members=m, epochs=3, batch_size=40).fit(gratings(100, 0)) for m in (1, 2))
    for name, array in two.to_part().arrays.items():
        np.testing.assert_allclose(array[:1], one.to_part().arrays[name], atol=1e-4, rtol=1e-3)


def test_a_training_that_was_stopped_resumes_to_the_same_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    rows, labels = gratings(60, 0), np.repeat([-1, 1], [50, 10])

    def stop(epoch: int, *_: object) -> None:
        if epoch == 4:
            raise KeyboardInterrupt

    whole = make(epochs=8).fit(rows, labels).to_part().arrays
    with pytest.raises(KeyboardInterrupt):
        make(epochs=8).fit(rows, labels, progress=stop, checkpoint=tmp_path / "state")
    epochs: list[int] = []
    resumed = make(epochs=8).fit(
        rows, labels, progress=lambda epoch, *_: epochs.append(epoch), checkpoint=tmp_path / "state"
    )
    assert epochs[0] > 1
    for name, array in resumed.to_part().arrays.items():
        np.testing.assert_array_equal(array, whole[name])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="8 x 8, but rows have 256 columns"):
        make(image_shape=(8, 8)).fit(gratings(20, 0))
    with pytest.raises(ConfigError, match="channels is empty"):
        make(channels=()).fit(gratings(20, 0))
    with pytest.raises(ConfigError, match="batch_size is 1"):
        make(batch_size=1).fit(gratings(20, 0))
    with pytest.raises(TrainingError, match="1 training rows that are not labelled anomalies"):
        make().fit(gratings(20, 0), np.repeat([-1, 1], [1, 19]))


def test_masks_teach_where_defects_are_and_nothing_beside_them() -> None:
    """A faint stain is labelled, and beside it a bright spot that is on normal images too."""

    def spotted(images: Floats, seed: int, stain: float) -> tuple[Floats, NDArray[np.bool_]]:
        made, rng = images.reshape(-1, SIDE, SIDE).copy(), np.random.default_rng(seed)
        masks = np.zeros(made.shape, dtype=np.bool_)
        for image, mask in zip(made, masks, strict=True):
            top, left = rng.integers(0, SIDE - 5, size=2)
            mask[top : top + 5, left : left + 5] = True
            image[mask] -= np.float32(stain)
        return made.reshape(len(made), -1), masks & (stain > 0)

    normal, _ = spotted(gratings(150, 0), 1, 0.0)
    odd, masks = spotted(gratings(20, 2), 3, 0.25)
    rows, labels = np.concatenate([normal, odd]), np.repeat([-1, 1], [150, 20])
    all_masks = np.concatenate([np.zeros((150, SIDE, SIDE), dtype=np.bool_), masks])
    tested, truth = spotted(gratings(60, 4), 5, 0.25)
    fitted = [make(members=1, epochs=15).fit(rows, labels, masks=given) for given in (None, all_masks)]
    without, by_pixels = (roc_auc_score(truth.ravel(), each.heat_maps(tested).ravel()) for each in fitted)
    assert by_pixels > max(0.8, without)
    with pytest.raises(InputError, match=r"bool of shape \(170, 16, 16\) is needed"):
        make().fit(rows, labels, masks=all_masks[1:])


def test_the_loss_with_masks_is_the_one_of_the_thesis() -> None:
    field, maps = field_of(1), torch.randn((1, 3, 4, 4), dtype=torch.float64)
    masks = torch.zeros((1, 3, 8, 8), dtype=torch.bool)
    masks[0, 1, 2:5, 2:5] = True
    losses = masked_loss(maps, torch.tensor([[False, True, True]]), masks, field, 1.0)[0]
    full = 4 * upsampled((maps[0].square() + 1).sqrt() - 1, field, (8, 8), 1.0)
    inside = (full[1] * masks[0, 1]).mean()
    expected = [full[0].mean(), (full[1] * ~masks[0, 1]).mean() - (1 - (-inside).exp()).log()]
    assert losses[:2].tolist() == pytest.approx([float(value) for value in expected])
    assert losses[2] == map_loss(maps, torch.tensor([[True] * 3]))[0, 2]


def test_colours_that_do_not_belong_are_found() -> None:
    def coloured(images: Floats) -> Floats:
        return np.stack([images, 0.8 * images, 0.3 * images], axis=-1).reshape(len(images), -1)

    detector = make(image_shape=(SIDE, SIDE, 3), members=1).fit(coloured(gratings(200, 0)))
    (images, masks), usual = with_squares(40, 1), coloured(gratings(40, 2))
    odd = coloured(gratings(40, 3)).reshape(40, SIDE, SIDE, 3)
    odd = np.where(masks[..., None], odd[..., ::-1], odd).reshape(40, -1)  # red and blue exchanged: as light as before
    assert images.shape == (40, SIDE**2)
    assert roc_auc_score(np.repeat([0, 1], 40), detector.decision_function(np.concatenate([usual, odd]))) > 0.9
    assert detector.heat_maps(odd).shape == (40, SIDE, SIDE)
    assert roc_auc_score(masks.ravel(), detector.heat_maps(odd).ravel()) > 0.8
