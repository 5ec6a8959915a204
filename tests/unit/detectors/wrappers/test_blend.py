"""Blend: the sum of what its members say, each in units of rows that no member has seen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.calibration.hardness import NeighbourhoodStrata
from assay.detectors.registry import learns_from_labels, load_detector, make_detector, unpackageable
from assay.detectors.wrappers.blend import Blend, Units
from assay.errors import ConfigError, ScorerError, TrainingError
from assay.parts import Part, read_part, write_part
from assay.scorer.explaining import NEAREST, contributions

Floats = NDArray[np.float32]
OF: list[Any] = ["knn", {"isolation_forest": {"n_estimators": 20}}, {"rescaled": {"detector": "reach"}}]


def cloud(n: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> Blend:
    return Blend(of=OF, seed=3).fit(cloud(400, seed=0))


def by_hand(scores: Floats, held: Floats) -> list[float]:
    """Return -log of the share of held scores beyond each, and beyond their upper tenth the exponential tail."""
    scale = np.log if held.min() >= 0 else np.asarray
    start = np.quantile(scale(held.astype(np.float64)), 0.9)
    excess = [value - start for value in scale(held.astype(np.float64)) if value > start]
    said = []
    for score in scores.astype(np.float64):
        if scale(score) > start:
            said.append(-np.log(0.1) + (scale(score) - start) / np.mean(excess))
        else:
            said.append(-np.log((np.sum(held > score) + 1) / (len(held) + 1)))
    return said


def test_it_is_the_sum_of_its_members_in_units_of_rows_that_they_have_not_seen(fitted: Blend) -> None:
    rows, asked = cloud(400, seed=0), np.concatenate([cloud(50, seed=1), 4 * cloud(50, seed=2)])
    held = np.random.default_rng(3).choice(400, 80, replace=False)
    expected = np.zeros(100)
    for i, ((name, params),) in enumerate({"knn": {}}.items() if each == "knn" else each.items() for each in OF):
        seed = int(np.random.default_rng([3, i]).integers(2**31))
        member = make_detector(name, params, seed=seed).fit(np.delete(rows, held, axis=0))
        expected += by_hand(member.decision_function(asked), member.decision_function(rows[held]))
    np.testing.assert_allclose(fitted.decision_function(asked), expected, rtol=1e-6)


def test_units_rise_with_the_score_whatever_ties() -> None:
    rng = np.random.default_rng(0)
    grid = np.sort(np.concatenate([np.linspace(-3, 12, 3000), [0, 1, 2, 5]])).astype(np.float32)
    for held in (rng.gamma(2, size=50), rng.normal(size=70), np.repeat([0, 1, 2, 5], [40, 5, 5, 8]), np.r_[0, 1, 1.0]):
        said = Units.fit("knn", held.astype(np.float32)).of(grid)
        assert (np.diff(said) >= 0).all()
        assert np.isfinite(said).all()
        assert said[-1] > said[0]


def test_on_held_rows_a_member_says_one_on_average() -> None:
    """-log of a uniform share has mean 1; so that no member outweighs another."""
    scores = np.random.default_rng(0).gamma(3, size=200_000).astype(np.float32)
    units = Units.fit("knn", scores[:500])
    assert units.of(scores[500:]).mean() == pytest.approx(1, abs=0.1)


def test_it_comes_back_from_its_part_with_the_same_bits(fitted: Blend, tmp_path: Path) -> None:
    asked = np.concatenate([cloud(300, seed=5), 30 * cloud(30, seed=6)])
    write_part(tmp_path, "detector", fitted.to_part())
    loaded = load_detector(read_part(tmp_path, "detector"))
    scores = fitted.decision_function(asked)
    np.testing.assert_array_equal(loaded.decision_function(asked), scores)
    np.testing.assert_array_equal(np.concatenate([loaded.decision_function(row[None]) for row in asked]), scores)
    assert unpackageable(fitted.to_part()) == ""
    plugged = Blend(of=["knn", "sklearn.svm.OneClassSVM"]).fit(cloud(120, seed=0)).to_part()
    assert "OneClassSVM has no array form" in unpackageable(plugged)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays | {"held": arrays["held"][:, ::-1].copy()}, "not ascending"),
        (lambda arrays: arrays | {"held": arrays["held"][:, :0]}, "empty"),
        (lambda arrays: arrays | {"tail": arrays["tail"] * np.array([1, 1, -1.0])}, "not above 0"),
        (lambda arrays: arrays | {name: arrays[name][:2] for name in ("held", "tail")}, "3 members and units of 2"),
    ],
)
def test_a_damaged_part_is_refused(fitted: Blend, change: Any, words: str) -> None:
    part = fitted.to_part()
    with pytest.raises(ScorerError, match=words):
        load_detector(Part(part.kind, part.config, change(dict(part.arrays))))


def test_contributions_are_the_sum_of_its_members_and_add_up(fitted: Blend) -> None:
    normals, asked = NeighbourhoodStrata.fit_rows(cloud(200, seed=7), seed=0), 3 * cloud(20, seed=8)
    origins = np.arange(4)
    shares = contributions(fitted.decision_function, normals, asked, origins)
    of_members = sum(
        contributions(lambda X, m=member, u=units: u.of(m.decision_function(X)), normals, asked, origins)
        for member, units in zip(fitted.members_, fitted.units_, strict=True)
    )
    np.testing.assert_allclose(shares, of_members, atol=1e-4)
    near = normals.nearest(asked, NEAREST)
    of_near = fitted.decision_function(near.reshape(-1, 4)).reshape(-1, NEAREST).mean(axis=1)
    np.testing.assert_allclose(shares.sum(axis=1), fitted.decision_function(asked) - of_near, atol=1e-4)


def test_members_that_learn_from_labels_get_them_and_the_others_do_not() -> None:
    rows = np.concatenate([cloud(150, seed=0), 5 + cloud(10, seed=1)])
    labels = np.r_[np.full(150, -1), np.ones(10, dtype=int)]
    of = ["knn", {"hsc": {"epochs": 2, "members": 1}}]
    blend = make_detector("blend", {"of": of}, seed=0, device="cpu").fit(rows, labels)
    assert blend.uses_labels
    assert learns_from_labels(blend.to_part())
    assert isinstance(blend, Blend)
    assert len(blend.units_[0].held) == 50
    assert blend.members_[0].to_part().arrays["rows"].shape[0] == 100
    assert blend.decision_function(5 + cloud(20, seed=2)).min() > np.median(blend.decision_function(cloud(99, seed=3)))


def test_what_cannot_be_blended_is_refused_by_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"of is \(\); it must be a list of 2 to 20 detectors"):
        make_detector("blend", {}, seed=0)
    with pytest.raises(ConfigError, match="there is no detector 'forest'"):
        make_detector("blend", {"of": ["knn", "forest"]}, seed=0)
    with pytest.raises(TrainingError, match=r"has 99 .*; it needs 100: give more rows"):
        Blend(of=["knn", "mcd"]).fit(cloud(99, seed=0))
