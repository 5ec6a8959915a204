"""Deep SVDD: the smallest hypersphere around the training rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from assay.detectors.methods.deep_svdd import DeepSVDD, solve_radius
from assay.errors import ConfigError, InputError

Floats = NDArray[np.float32]


def rows(n: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)


@pytest.mark.parametrize("objective", ["one-class", "soft-boundary"])
def test_it_finds_what_it_has_never_seen(objective: str) -> None:
    X, benign = load_breast_cancer(return_X_y=True)
    normal = np.random.default_rng(0).permutation(np.flatnonzero(benign == 1))
    train, test = X[normal[:200]], np.concatenate([X[normal[200:]], X[benign == 0]])
    train, test = ((x - X[normal[:200]].mean(axis=0)) / X[normal[:200]].std(axis=0) for x in (train, test))
    detector = DeepSVDD(objective=objective, members=3, device="cpu").fit(train.astype(np.float32))
    anomalous = np.arange(len(test)) >= len(normal) - 200
    assert roc_auc_score(anomalous, detector.decision_function(test.astype(np.float32))) > 0.9


@pytest.mark.parametrize("nu", [0.05, 0.25, 0.6])
def test_nu_bounds_the_share_outside_the_sphere(nu: float) -> None:
    """Proposition 4 on every redraw, for the training rows; rows like them fall outside about as often."""
    outside = []
    for seed in range(6):
        detector = DeepSVDD(
            objective="soft-boundary", nu=nu, members=1, epochs=12, pretrain_epochs=0, seed=seed, device="cpu"
        )
        scores = detector.fit(rows(121, seed)).decision_function(rows(121, seed))
        slack = 1e-5 * np.abs(scores).max()
        assert (scores > slack).mean() <= nu
        assert (scores >= -slack).mean() >= nu
        outside.append((detector.decision_function(rows(2000, 100 + seed)) > 0).mean())
    assert abs(np.mean(outside) - nu) < 0.12


def test_the_radius_minimises_the_objective() -> None:
    distances = torch.tensor(np.random.default_rng(0).exponential(size=(2, 37)))
    for nu in (0.01, 0.1, 0.33, 0.9):
        found = solve_radius(distances, nu)
        assert found.shape == (2, 1)

        def objective(radius: torch.Tensor, nu: float = nu) -> torch.Tensor:
            return radius.squeeze(1) + torch.relu(distances - radius).mean(dim=1) / nu

        others = torch.stack([objective(torch.full((2, 1), r)) for r in np.linspace(0, 6, 2001)])
        assert (objective(found) <= others.min(dim=0).values + 1e-9).all()


def test_only_the_soft_boundary_has_a_radius() -> None:
    soft, one_class = (
        DeepSVDD(objective=objective, members=2, epochs=3, pretrain_epochs=1, device="cpu").fit(rows(80, 0))
        for objective in ("soft-boundary", "one-class")
    )
    radius = soft.to_part().arrays["radius"]
    assert (radius > 0).all()
    assert not one_class.to_part().arrays["radius"].any()
    center = soft.to_part().arrays["center"]
    distances = np.square(soft.embed(rows(20, 1)) - center).sum(axis=2)
    np.testing.assert_allclose(soft.decision_function(rows(20, 1)), (distances - radius).mean(axis=0), atol=1e-4)


@pytest.mark.parametrize("objective", ["one-class", "soft-boundary"])
def test_members_equal_those_trained_alone(objective: str) -> None:
    one, two, three = (
        DeepSVDD(objective=objective, members=m, epochs=3, pretrain_epochs=3, batch_size=40, device="cpu").fit(
            rows(100, 0)
        )
        for m in (1, 2, 3)
    )
    for name, array in two.to_part().arrays.items():
        np.testing.assert_allclose(array[:1], one.to_part().arrays[name], atol=1e-4, rtol=1e-3)
        np.testing.assert_allclose(three.to_part().arrays[name][:2], array, atol=1e-4, rtol=1e-3)


def test_pre_training_is_a_phase_of_its_own() -> None:
    seen: list[tuple[int, int]] = []
    with_it, without = (
        DeepSVDD(members=1, epochs=3, pretrain_epochs=n, device="cpu").fit(
            rows(80, 0), progress=lambda epoch, epochs, _: seen.append((epoch, epochs))
        )
        for n in (2, 0)
    )
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5), (1, 3), (2, 3), (3, 3)]
    assert not np.array_equal(with_it.decision_function(rows(9, 1)), without.decision_function(rows(9, 1)))
    assert not any(name.startswith("decode") for name in with_it.to_part().arrays)


def test_an_interrupted_training_goes_on_with_the_same_result(tmp_path: Path) -> None:
    def make() -> DeepSVDD:
        return DeepSVDD(objective="soft-boundary", members=2, epochs=4, pretrain_epochs=3, device="cpu")

    def stop(epoch: int, *_: object) -> None:
        if epoch == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make().fit(rows(80, 0), progress=stop, checkpoint=tmp_path / "state")
    epochs: list[int] = []
    resumed = make().fit(rows(80, 0), progress=lambda epoch, *_: epochs.append(epoch), checkpoint=tmp_path / "state")
    assert epochs[0] > 3
    for name, array in make().fit(rows(80, 0)).to_part().arrays.items():
        np.testing.assert_array_equal(resumed.to_part().arrays[name], array)


def test_what_it_cannot_use_is_refused() -> None:
    with pytest.raises(ConfigError, match="'one-class', 'soft-boundary'"):
        DeepSVDD(objective="soft").fit(rows(20, 0))
    with pytest.raises(ConfigError, match="nu is 0; it must be a number between 0 and 1"):
        DeepSVDD(nu=0).fit(rows(20, 0))
    with pytest.raises(InputError, match="cannot use labelled anomalies"):
        DeepSVDD().fit(rows(20, 0), np.eye(1, 20)[0])
