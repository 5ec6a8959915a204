"""The autoencoder on tables and images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from assay.detectors.base import Embeds
from assay.detectors.methods.autoencoder import Autoencoder
from assay.detectors.registry import make_detector
from assay.errors import ConfigError, InputError, TrainingError

Floats = NDArray[np.float32]


def four_tenths_of_normals(X: Floats, anomalous: NDArray[Any]) -> tuple[Floats, Floats, NDArray[Any]]:
    """Return training rows (normal), test rows, and which of those are anomalous."""
    normal = np.random.default_rng(0).permutation(np.flatnonzero(~anomalous))
    n_train = int(0.4 * len(normal))
    test = np.concatenate([normal[n_train:], np.flatnonzero(anomalous)])
    return X[normal[:n_train]], X[test], anomalous[test]


def digits() -> tuple[Floats, Floats, NDArray[Any]]:
    X, digit = load_digits(return_X_y=True)
    return four_tenths_of_normals((X / 16).astype(np.float32), digit == 0)


def waves(n: int, height: int, width: int) -> Floats:
    """Flattened images of one bright horizontal line each."""
    rng = np.random.default_rng(0)
    images = 0.05 * rng.random((n, height, width))
    images[np.arange(n), rng.integers(height, size=n)] += 0.9
    return images.reshape(n, -1).astype(np.float32)


@pytest.mark.parametrize("image_shape", [None, (8, 8)])
def test_it_finds_the_digit_it_has_never_seen(image_shape: tuple[int, int] | None) -> None:
    train, test, anomalous = digits()
    detector = Autoencoder(epochs=100, members=2, image_shape=image_shape, device="cpu").fit(train)
    assert roc_auc_score(anomalous, detector.decision_function(test)) > 0.93


def test_it_keeps_up_with_neighbours_on_a_table() -> None:
    X, benign = load_breast_cancer(return_X_y=True)
    train, test, anomalous = four_tenths_of_normals(X, benign == 0)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    train, test = ((rows - mean) / deviation for rows in (train, test))
    detector = Autoencoder(device="cpu").fit(train)
    distance = NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0][:, -1]
    ours = roc_auc_score(anomalous, detector.decision_function(test))
    assert ours > roc_auc_score(anomalous, distance) - 0.03


@pytest.mark.parametrize("image_shape", [None, (8, 8)])
def test_the_score_is_the_mean_squared_error_of_all_members(image_shape: tuple[int, int] | None) -> None:
    train, test, _ = digits()
    detector = Autoencoder(epochs=5, members=3, image_shape=image_shape, device="cpu").fit(train)
    found = detector.reconstruct(test[:700])
    assert found.shape == (3, 700, 64)
    assert found.dtype == np.float32
    expected = np.square(found.astype(np.float64) - test[:700]).mean(axis=(0, 2))
    np.testing.assert_allclose(detector.decision_function(test[:700]), expected, rtol=1e-4)
    codes = detector.embed(test[:700])
    assert codes.shape == (3, 700, 8)
    assert codes.dtype == np.float32
    assert isinstance(detector, Embeds)
    assert detector.reconstruct(test[:0]).shape == (3, 0, 64)
    assert detector.embed(test[:0]).shape == (3, 0, 8)


@pytest.mark.parametrize(
    ("settings", "n_epochs"),
    [
        ({"max_steps": 9}, 2),
        ({}, 150),
        ({"batch_size": 2}, 17),  # 6,000 steps in all
        ({"batch_size": 2, "image_shape": (2, 8)}, 9),  # 3,000
        ({"batch_size": 2, "max_steps": 100_000, "epochs": 20}, 20),
    ],
)
def test_it_takes_no_more_steps_than_it_may(settings: dict[str, Any], n_epochs: int) -> None:
    X = np.random.default_rng(0).normal(size=(800, 16)).astype(np.float32)
    seen: list[int] = []

    def stop(epoch: int, epochs: int, _: float) -> None:
        seen.append(epochs)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Autoencoder(members=1, hidden=(4,), device="cpu", **settings).fit(X, progress=stop)
    assert seen == [n_epochs]


def test_epochs_that_were_not_made_are_on_record(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    settings: dict[str, Any] = {"members": 1, "hidden": (4,), "latent_dim": 2, "device": "cpu", "epochs": 5}
    bounded = Autoencoder(**settings, max_steps=4).fit(X, checkpoint=tmp_path / "state")
    assert bounded.notes_ == ("max_steps 4: 2 epochs, not 5",)
    again = Autoencoder(**settings, max_steps=4).fit(X, checkpoint=tmp_path / "state")
    assert again.notes_ == bounded.notes_  # all of its epochs were made before
    assert bounded.to_part().config["params"]["max_steps"] == 4
    unbounded = Autoencoder(**settings).fit(X)
    assert unbounded.notes_ == ()
    assert "max_steps" not in unbounded.to_part().config["params"]


def test_images_score_the_same_alone_and_in_a_batch() -> None:
    train, test, _ = digits()
    detector = Autoencoder(epochs=3, members=2, image_shape=(8, 8), device="cpu").fit(train)
    rows = np.concatenate([test[:400], test[-200:] * 3])
    alone = np.concatenate([detector.decision_function(rows[i : i + 1]) for i in range(len(rows))])
    np.testing.assert_array_equal(detector.decision_function(rows), alone)
    loaded = Autoencoder.from_part(detector.to_part())
    np.testing.assert_array_equal(loaded.decision_function(rows), alone)


@pytest.mark.parametrize("image_shape", [(28, 28), (5, 7), (1, 9)])
def test_images_of_any_size(image_shape: tuple[int, int]) -> None:
    train = waves(60, *image_shape)
    detector = Autoencoder(epochs=2, members=2, image_shape=image_shape, device="cpu").fit(train)
    assert detector.reconstruct(train).shape == (2, 60, train.shape[1])


def test_convolutions_know_rows_from_columns() -> None:
    """A line in another direction is what the training rows never had."""
    train = waves(200, 8, 12)
    turned = train.reshape(-1, 8, 12)[:, :, ::-1]
    upright = np.full((8, 12), 0.02, dtype=np.float32)
    upright[:, 5] = 0.9
    detector = Autoencoder(members=2, image_shape=(8, 12), device="cpu").fit(train)
    usual = detector.decision_function(turned.reshape(200, -1))
    assert detector.decision_function(upright.reshape(1, -1))[0] > 2 * usual.max()


def test_an_image_shape_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="8 x 8, but rows have 60 columns"):
        Autoencoder(image_shape=(8, 8), device="cpu").fit(np.ones((9, 60), dtype=np.float32))
    with pytest.raises(ConfigError, match="height, width"):
        Autoencoder(image_shape=(8,), device="cpu").fit(np.ones((9, 8), dtype=np.float32))  # type: ignore[arg-type]


def test_every_member_stream_is_its_own() -> None:
    """More members leave the earlier ones as they were."""
    train, _, _ = digits()
    two, three = (Autoencoder(epochs=3, members=m, device="cpu").fit(train) for m in (2, 3))
    for name, array in two.to_part().arrays.items():
        np.testing.assert_allclose(three.to_part().arrays[name][:2], array, atol=1e-5)


def test_labelled_anomalies_are_refused_not_ignored() -> None:
    train, test, _ = digits()
    plain = Autoencoder(epochs=3, members=1, device="cpu").fit(train)
    normal = Autoencoder(epochs=3, members=1, device="cpu").fit(train, np.zeros(len(train)))
    np.testing.assert_array_equal(plain.decision_function(test), normal.decision_function(test))
    with pytest.raises(InputError, match="cannot use labelled anomalies, and 1 rows"):
        Autoencoder(epochs=3, members=1, device="cpu").fit(train, np.eye(1, len(train))[0])


def test_unscaled_rows_are_reported_when_they_break_training() -> None:
    rows = np.random.default_rng(0).normal(size=(80, 4)) * 1e30
    with pytest.raises(TrainingError, match="scale the features"):
        Autoencoder(device="cpu").fit(rows.astype(np.float32))


def test_rates_for_another_number_of_members_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="learning_rate lists 2 numbers for 5 members"):
        make_detector("autoencoder", {"learning_rate": [1e-3, 1e-2]}, seed=0)


def test_what_is_stored_is_float32_and_does_not_say_where_it_was_trained() -> None:
    train, _, _ = digits()
    part = Autoencoder(epochs=1, members=2, device="cpu").fit(train).to_part()
    assert {array.dtype for array in part.arrays.values()} == {np.dtype(np.float32)}
    assert "device" not in part.config["params"]
    assert part.config["n_features"] == 64


def test_scoring_needs_no_gradients_and_refuses_other_widths() -> None:
    train, test, _ = digits()
    detector = Autoencoder(epochs=1, members=1, device="cpu").fit(train)
    with torch.no_grad():
        detector.decision_function(test)
    for method in (detector.reconstruct, detector.embed):
        with pytest.raises(InputError, match="63 columns"):
            method(test[:, :63])
