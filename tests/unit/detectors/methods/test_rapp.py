"""RaPP: the difference between a row and its reconstruction along the encoder."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from assay.detectors.methods.rapp import RIDGES, RaPP, whitening_of
from assay.errors import TrainingError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def rows_of(n: int, seed: int, *, off: float = 0.0) -> Floats:
    """Two columns tied together, two that depend on them loosely, and four of noise; `off` breaks the tie."""
    rng = np.random.default_rng(seed)
    t = rng.normal(size=(n, 1))
    tied = np.hstack([t, -t]) + 0.02 * rng.normal(size=(n, 2))
    tied[:, :1] += off * rng.choice([-1, 1], size=(n, 1))
    return np.hstack([tied, t + rng.normal(size=(n, 2)), rng.normal(size=(n, 4))]).astype(np.float32)


def test_the_whitening_does_not_depend_on_the_number_of_threads() -> None:
    differences = np.random.default_rng(0).normal(size=(2000, 150))
    found = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            found.append(whitening_of(differences))
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def small(score: str, members: int = 2) -> RaPP:
    return RaPP(score=score, hidden=(6, 4), latent_dim=2, epochs=30, members=members, device="cpu")


def pathway_by_hand(arrays: dict[str, Doubles], member: int, x: Doubles) -> Doubles:
    found, value = [x], x
    for layer in (0, 2, 4):
        weight, bias = (arrays[f"coder.encoder.{layer}.{name}"][member] for name in ("weight", "bias"))
        value = value @ weight + bias
        value = value if layer == 4 else np.tanh(value)
        found.append(value)
    return np.hstack(found)


def differences_by_hand(detector: RaPP, x: Floats) -> list[Doubles]:
    arrays = {name: array.astype(np.float64) for name, array in detector.to_part().arrays.items()}
    found = detector.reconstruct(x).astype(np.float64)
    return [
        pathway_by_hand(arrays, member, found[member]) - pathway_by_hand(arrays, member, x.astype(np.float64))
        for member in range(detector.members)
    ]


def test_sap_is_the_sum_of_squared_differences_in_all_layers() -> None:
    train, test = rows_of(200, 0), rows_of(50, 1)
    detector = small("sap").fit(train)
    differences = differences_by_hand(detector, test)
    assert differences[0].shape == (50, 8 + 6 + 4 + 2)
    expected = np.mean([np.square(d).sum(axis=1) for d in differences], axis=0)
    np.testing.assert_allclose(detector.decision_function(test), expected, rtol=1e-4)
    assert "whitening.centre" not in detector.to_part().arrays


def test_nap_is_a_mahalanobis_distance_with_one_of_the_ridges() -> None:
    train, test = rows_of(400, 0), rows_of(50, 1)
    detector = small("nap", members=1).fit(train)
    known, asked = differences_by_hand(detector, train)[0], differences_by_hand(detector, test)[0]
    covariance, centre = np.cov(known.T, bias=True), known.mean(axis=0)
    scores, hits = detector.decision_function(test), 0
    for ridge in RIDGES:
        ridged = covariance + ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        expected = ((asked - centre) @ np.linalg.inv(ridged) * (asked - centre)).mean(axis=1)
        hits += np.allclose(scores, expected, rtol=0.01)
    assert hits == 1


def test_the_ridge_goes_as_rows_become_many() -> None:
    """The variances are those of the differences; only few rows call for more."""
    rng = np.random.default_rng(0)
    scales = np.array([3.0, 1.0, 0.1])
    centre, directions, variances, _ = whitening_of(rng.normal(1.0, scales, size=(20_000, 3)))
    np.testing.assert_allclose(variances, scales**2, rtol=0.05)
    np.testing.assert_allclose(centre, 1.0, atol=0.1)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    _, _, few, rest = whitening_of(rng.normal(size=(20, 60)))
    assert min(*few, rest) > 0.05


def test_nap_sees_what_noise_hides_from_sap() -> None:
    train = rows_of(600, 0)
    test = np.concatenate([rows_of(200, 1), rows_of(200, 2, off=0.4)])
    broken = np.repeat([0, 1], 200)
    found = {}
    for score in ("nap", "sap"):
        detector = RaPP(score=score, hidden=(16, 8), latent_dim=3, epochs=60, members=2, device="cpu").fit(train)
        found[score] = roc_auc_score(broken, detector.decision_function(test))
    assert found["nap"] > found["sap"] + 0.1
    assert found["nap"] > 0.8


def test_fewer_rows_than_activations() -> None:
    """Without a ridge all training rows would score the same."""
    train = rows_of(40, 0)
    detector = RaPP(epochs=30, members=2, device="cpu").fit(train)
    usual = detector.decision_function(train)
    assert usual.std() > 0.05 * usual.mean()
    assert detector.decision_function(6 * train[:1])[0] > usual.max()


def test_images_have_more_activations_than_directions() -> None:
    images = np.zeros((80, 8, 8), dtype=np.float32)
    images[np.arange(80), np.arange(80) % 8] = 1.0
    images += 0.05 * np.random.default_rng(0).random(images.shape, dtype=np.float32)
    rows, turned = images.reshape(80, 64), images.transpose(0, 2, 1).reshape(80, 64)
    detector = RaPP(members=2, image_shape=(8, 8), epochs=30, batch_size=16, device="cpu").fit(rows)
    n_activations = 64 + 8 * 4 * 4 + 16 * 2 * 2 + 64 + 32 + 8
    assert detector.to_part().arrays["whitening.directions"].shape == (2, n_activations, 256)
    assert detector.decision_function(turned).min() > 2 * detector.decision_function(rows).max()


def test_a_member_is_what_it_would_be_alone() -> None:
    train, test = rows_of(200, 0), rows_of(20, 1)
    one, two = (RaPP(epochs=4, members=m, device="cpu").fit(train) for m in (1, 2))
    ours, theirs = one.to_part().arrays, two.to_part().arrays
    for name in ours:
        if not name.startswith("whitening"):  # directions have no sign of their own
            np.testing.assert_allclose(theirs[name][:1], ours[name], atol=1e-5)
    first = RaPP(epochs=4, members=1, device="cpu")
    part = two.to_part()
    alone = {name: array[:1] for name, array in part.arrays.items()}
    part = type(part)(part.kind, {**part.config, "params": {**part.config["params"], "members": 1}}, alone)
    expected = one.decision_function(test)
    np.testing.assert_allclose(type(first).from_part(part).decision_function(test), expected, rtol=0.02)


def test_nothing_to_whiten_by_is_reported() -> None:
    with pytest.raises(TrainingError, match="nothing to whiten by"):
        RaPP(epochs=2, members=1, device="cpu").fit(np.full((50, 4), 0.3, dtype=np.float32))
    with pytest.raises(TrainingError, match="9 training rows; whitening needs at least 10"):
        RaPP(epochs=2, members=1, device="cpu").fit(rows_of(9, 0))
