"""Latent outlier exposure: training on contaminated rows."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from assay.detectors.base import Suspects
from assay.detectors.methods.deep_svdd import DeepSVDD
from assay.detectors.methods.loe import LatentOutlierExposure
from assay.errors import ConfigError

Floats = NDArray[np.float32]
SHARE = 0.1


def rows(n: int, seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Rows on a plane in six dimensions, a tenth of them in a cluster off that plane, in random order."""
    rng = np.random.default_rng(seed)
    plane = np.random.default_rng(0).normal(size=(2, 6))
    X = rng.normal(size=(n, 2)) @ plane + 0.3 * rng.normal(size=(n, 6))
    anomalous = rng.permutation(n) < SHARE * n
    X[anomalous] = np.array([2, -2, 2, 2, -2, -2]) + 0.3 * rng.normal(size=(anomalous.sum(), 6))
    return X.astype(np.float32), anomalous


@pytest.mark.parametrize("variant", ["hard", "soft"])
def test_it_finds_the_contaminants_and_ranks_better_than_blind_training(variant: str) -> None:
    gains, precisions = [], []
    for seed in range(4):
        (X, anomalous), (tested, truth) = rows(300, seed), rows(1000, 100 + seed)
        common: dict[str, Any] = {"members": 3, "epochs": 20, "pretrain_epochs": 5, "seed": seed, "device": "cpu"}
        exposed = LatentOutlierExposure(variant=variant, contamination=SHARE, **common).fit(X)
        blind = DeepSVDD(**common).fit(X)
        areas = [roc_auc_score(truth, d.decision_function(tested)) for d in (exposed, blind)]
        gains.append(areas[0] - areas[1])
        precisions.append(anomalous[exposed.suspects_].mean())
    assert np.mean(gains) > 0.05
    assert np.mean(precisions) > 4 * SHARE


@pytest.mark.parametrize(("contamination", "expected"), [(0.1, 12), (0.25, 30), (0.001, 1)])
def test_it_suspects_as_many_rows_as_it_assumes(contamination: float, expected: int) -> None:
    X, _ = rows(120, 0)
    detector = LatentOutlierExposure(
        contamination=contamination, members=2, epochs=2, pretrain_epochs=1, device="cpu"
    ).fit(X)
    assert isinstance(detector, Suspects)
    assert detector.suspicion_.shape == detector.suspects_.shape == (120,)
    assert (str(detector.suspicion_.dtype), str(detector.suspects_.dtype)) == ("float32", "bool")
    assert detector.suspects_.sum() == expected
    assert detector.suspicion_[detector.suspects_].min() >= detector.suspicion_[~detector.suspects_].max()
    part = detector.to_part()
    assert not any(name.startswith("susp") for name in part.arrays)
    loaded = LatentOutlierExposure.from_part(part)
    assert not hasattr(loaded, "suspects_")
    np.testing.assert_array_equal(loaded.decision_function(X), detector.decision_function(X))


def test_suspicion_ranks_as_the_score_of_one_member() -> None:
    X, _ = rows(120, 0)
    detector = LatentOutlierExposure(members=1, epochs=3, pretrain_epochs=0, device="cpu").fit(X)
    scores = detector.decision_function(X)
    order = np.argsort(scores)
    assert (np.diff(detector.suspicion_[order]) > -1e-4).all()


def test_hard_pushes_suspects_further_than_soft() -> None:
    ratios = {}
    for variant in ("hard", "soft"):
        found = []
        for seed in range(3):
            X, _ = rows(200, seed)
            detector = LatentOutlierExposure(
                variant=variant, contamination=SHARE, members=1, epochs=20, pretrain_epochs=0, seed=seed, device="cpu"
            ).fit(X)
            scores = detector.decision_function(X)
            found.append(scores[detector.suspects_].mean() / scores[~detector.suspects_].mean())
        ratios[variant] = np.mean(found)
    assert ratios["hard"] > 1.2 * ratios["soft"]


def test_a_batch_of_one_row_is_not_all_anomalies() -> None:
    X, anomalous = rows(60, 0)
    common: dict[str, Any] = {"members": 1, "epochs": 5, "pretrain_epochs": 2, "device": "cpu"}
    detector = LatentOutlierExposure(variant="hard", contamination=SHARE, batch_size=1, **common).fit(X)
    assert np.median(detector.decision_function(X[~anomalous])) < 0.5


def test_epochs_count_the_warm_up() -> None:
    seen: list[tuple[int, int]] = []
    LatentOutlierExposure(members=1, epochs=2, pretrain_epochs=1, device="cpu").fit(
        rows(60, 0)[0], progress=lambda epoch, epochs, _: seen.append((epoch, epochs))
    )
    assert seen == [(epoch, 5) for epoch in range(1, 6)]


def test_members_equal_those_trained_alone() -> None:
    one, two, three = (
        LatentOutlierExposure(members=m, epochs=2, pretrain_epochs=2, batch_size=40, device="cpu").fit(rows(100, 0)[0])
        for m in (1, 2, 3)
    )
    for name, array in two.to_part().arrays.items():
        np.testing.assert_allclose(array[:1], one.to_part().arrays[name], atol=1e-4, rtol=1e-3)
        np.testing.assert_allclose(three.to_part().arrays[name][:2], array, atol=1e-4, rtol=1e-3)


def test_what_it_cannot_assume_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"contamination is 0\.5; it must be a number between 0 and 0\.5"):
        LatentOutlierExposure(contamination=0.5).fit(rows(20, 0)[0])
    with pytest.raises(ConfigError, match="'hard', 'soft'"):
        LatentOutlierExposure(variant="blind").fit(rows(20, 0)[0])
