"""Contributions of columns: they add up, and name the column that was moved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.hardness import HoldingStrata, NeighbourhoodStrata, Strata, fit_strata, load_strata
from assay.data.encoding import Encoder
from assay.detectors.registry import make_detector
from assay.errors import InputError, ScorerError
from assay.scorer.explaining import NEAREST, contributions, normal_rows, pieces_of
from assay.scorer.explaining_images import first_tiles

Singles = NDArray[np.float32]
ALL = list(range(30))
FEW = [1, 4, 8, 14, 18]  # in thirty a forest hardly sees one column, and flags almost none of these rows
DETECTORS: list[tuple[str, dict[str, Any], list[int], float]] = [
    ("knn", {}, ALL, 0.9),
    ("reach", {}, ALL, 0.9),
    ("isolation_forest", {}, FEW, 0.6),  # its score grows little with one column: others of these rows add as much
    ("mcd", {}, ALL, 0.9),
    ("autoencoder", {"members": 2, "epochs": 60}, ALL, 0.9),
]


def roles() -> tuple[Singles, Singles, Singles, Singles]:
    """Rows of the benign class, z-scored: for training, adaptation, calibration and questions."""
    X, benign = load_breast_cancer(return_X_y=True)
    rows = X[benign == 1][np.random.default_rng(0).permutation((benign == 1).sum())]
    train, adapt, calibration, asked = np.split(rows, [140, 220, 300])
    return tuple(
        ((part - train.mean(axis=0)) / train.std(axis=0)).astype(np.float32)
        for part in (train, adapt, calibration, asked)
    )  # type: ignore[return-value]


@pytest.mark.parametrize(("kind", "params", "chosen", "least"), DETECTORS)
def test_the_column_that_was_moved_is_named_first(
    kind: str, params: dict[str, Any], chosen: list[int], least: float
) -> None:
    """Normal rows with one column moved by 5 to 8 robust standard deviations, where they are flagged only then.

    Columns correlated over .9 count as one.
    """
    train, adapt, calibration, asked = (part[:, chosen] for part in roles())
    detector = make_detector(kind, params, seed=0, device="cpu").fit(train)
    normals = NeighbourhoodStrata.fit_rows(adapt, seed=0)
    calibrator = ConformalCalibrator().fit(detector.decision_function(calibration))
    robust = 1.4826 * np.median(np.abs(train - np.median(train, axis=0)), axis=0)
    alike = np.abs(np.corrcoef(train, rowvar=False)) > 0.9
    rng = np.random.default_rng(1)
    unflagged = asked[~calibrator.predict(detector.decision_function(asked), 0.05)]
    moved, columns = np.repeat(unflagged, 4, axis=0), rng.integers(len(chosen), size=4 * len(unflagged))
    moved[np.arange(len(moved)), columns] += (
        rng.uniform(5, 8, len(moved)) * robust[columns] * rng.choice([-1, 1], len(moved))
    )
    flagged = calibrator.predict(detector.decision_function(moved), 0.05)
    assert flagged.sum() > 20
    shares = contributions(detector.decision_function, normals, moved[flagged], np.arange(len(chosen)))
    named = alike[columns[flagged], shares.argmax(axis=1)].mean()
    assert named >= least, (kind, named, flagged.sum())


def test_contributions_add_up_to_the_excess_over_the_nearest_normal_rows_whatever_the_batch() -> None:
    train, adapt, _, asked = roles()
    detector = make_detector("knn", {}, seed=0).fit(train)
    normals = NeighbourhoodStrata.fit_rows(adapt, seed=0)
    shares = contributions(detector.decision_function, normals, asked, np.arange(asked.shape[1]))
    near = normals.nearest(asked, NEAREST)
    of_near = detector.decision_function(near.reshape(-1, 30)).reshape(-1, NEAREST).mean(axis=1)
    np.testing.assert_allclose(shares.sum(axis=1), detector.decision_function(asked) - of_near, atol=1e-5)
    alone = np.concatenate(
        [contributions(detector.decision_function, normals, row[None], np.arange(len(row))) for row in asked]
    )
    np.testing.assert_array_equal(alone, shares)


def test_the_nearest_rows_are_those_of_the_adapt_rows() -> None:
    _, adapt, _, asked = roles()
    distances = np.linalg.norm(asked[:, None].astype(np.float64) - adapt, axis=2)
    nearest = NeighbourhoodStrata.fit_rows(adapt, seed=0).nearest(asked, NEAREST)
    np.testing.assert_allclose(nearest, adapt[np.argsort(distances, axis=1)[:, :NEAREST]], atol=1e-3)


def test_a_scorer_without_normal_rows_says_so() -> None:
    with pytest.raises(InputError, match="holds no normal rows to explain others by"):
        normal_rows(Strata(np.array([1.0])))


def test_the_slots_of_a_category_are_one_column() -> None:
    """Rows of another category than their numbers say: the category is named, whatever the number of its slots."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 600)
    rows = np.column_stack([rng.normal(6 * kind, 1), kind, rng.normal(size=600)])
    encoder = Encoder(3, {1: ("a", "b", "c", "d")}, ()).fit(rows[:300])
    detector = make_detector("knn", {}, seed=0, device="cpu").fit(encoder.transform(rows[:300]))
    normals = NeighbourhoodStrata.fit_rows(encoder.transform(rows[300:400]), seed=0)
    odd = rows[400:440].copy()
    odd[:, 1] = (odd[:, 1] + 1) % 4
    shares = contributions(detector.decision_function, normals, encoder.transform(odd), encoder.origins)
    assert shares.shape == (40, 3)
    assert (shares[:, :2].sum(axis=1) > 5 * np.abs(shares[:, 2])).mean() > 0.9


def test_an_image_has_tiles_and_a_series_spans_of_channels() -> None:
    def pieces(**head: Any) -> NDArray[Any]:
        return pieces_of({"columns": ["a", "b", "c"], "image_shape": None, **head})

    np.testing.assert_array_equal(pieces(), [0, 1, 2])
    tiles = pieces(image_shape=[16, 24]).reshape(16, 24)
    assert tiles.max() == 63
    assert (tiles[2:4, 3:6] == tiles[2, 3]).all()
    assert pieces(image_shape=[3, 5]).tolist() == list(range(15))
    in_colour = pieces(image_shape=[16, 24, 3])
    assert (in_colour.reshape(16, 24, 3) == tiles[..., None]).all()
    (tile,) = first_tiles((in_colour == tiles[5, 7]) / 18, in_colour, (16, 24, 3), 2)
    assert (tile.rows, tile.columns) == ((4, 5), (6, 8))
    spans = pieces(series_shape=[20, 2]).reshape(20, 2)
    assert spans.max() == 15
    np.testing.assert_array_equal(np.diff(spans[:3], axis=1), 1)
    assert pieces(series_shape=[20, 30]).max() == 59
    assert pieces(series_shape=[20, 200]).max() == 199


def test_pieces_of_several_columns_add_up_and_the_odd_one_is_named() -> None:
    """Windows of three channels, compared with held windows: the span that was lifted contributes most."""
    rng = np.random.default_rng(3)
    pieces = pieces_of({"columns": [], "series_shape": [32, 3]})
    rows = (np.sin(np.arange(32) / 3)[None, :, None] + 0.3 * rng.normal(size=(400, 32, 3))).reshape(400, -1)
    rows = rows.astype(np.float32)
    detector = make_detector("knn", {}, seed=0).fit(rows[:200])
    normals = fit_strata(rows[200:300], np.arange(100.0), by_neighbourhood=False, seed=0)
    assert isinstance(normals, HoldingStrata)
    odd, lifted = rows[300:340].copy(), rng.integers(pieces.max() + 1, size=40)
    odd += 2 * (pieces == lifted[:, None])
    shares = contributions(detector.decision_function, normals, odd, pieces)
    near = normals.nearest(odd, NEAREST)
    assert normals.nearest(odd[:0], NEAREST).shape == (0, NEAREST, 96)
    of_near = detector.decision_function(near.reshape(-1, 96)).reshape(-1, NEAREST).mean(axis=1)
    np.testing.assert_allclose(shares.sum(axis=1), detector.decision_function(odd) - of_near, atol=1e-4)
    assert (shares.argmax(axis=1) == lifted).mean() >= 0.9


def test_strata_that_hold_rows_come_back_and_fit_the_rows_that_they_judge() -> None:
    rows = np.random.default_rng(4).normal(size=(30, 4)).astype(np.float32)
    strata = fit_strata(rows[:10], np.arange(10.0), by_neighbourhood=True, seed=0)  # too few for neighbourhoods
    loaded = load_strata(strata.to_part())
    np.testing.assert_array_equal(loaded.nearest(rows, 2), strata.nearest(rows, 2))
    np.testing.assert_array_equal(loaded.nearest(rows[:10], 1)[:, 0], rows[:10])
    values = np.arange(30.0)
    np.testing.assert_array_equal(loaded.assign(rows, values), Strata(strata.edges).assign(rows, values))
    with pytest.raises(InputError, match="have 3 columns; those that are held have 4"):
        loaded.assign(rows[:, :3], np.arange(30.0))
    wide = fit_strata(np.zeros((50, 2**16), dtype=np.float32), np.arange(50.0), by_neighbourhood=False, seed=0)
    assert wide.rows.shape == (16, 2**16)
    damaged = replace(strata.to_part(), arrays={**strata.to_part().arrays, "rows": rows[:0]})
    with pytest.raises(ScorerError, match="holds no rows"):
        load_strata(damaged)
