"""The unit and the zero of a column make no difference: scores, hardness and p-values are those of plain rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.calibration.adapters.registry import make_adapter
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.data.modalities.tabular import TABULAR
from assay.data.recipes import synthesize
from assay.detectors.registry import make_detector
from assay.errors import InputError
from assay.scorer.score_function import ScoreFunction

COLUMNS = 3
DETECTORS = [
    ("knn", {}),
    ("pca", {}),
    ("kde", {}),
    ("mcd", {}),
    ("autoencoder", {"epochs": 3, "members": 1}),
]


def plain_rows(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, COLUMNS)) @ np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 2.0]])


def score(kind: str, params: dict[str, object], train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Scores by the whole function of a scorer: scaler, null model, detector, adapter."""
    scaler = TABULAR.scaler().fit(train)
    scaled = scaler.transform(train)
    null_model = TABULAR.null_model().fit(scaled)
    detector = make_detector(kind, params, seed=0).fit(scaled)
    function = ScoreFunction(scaler, detector, null_model, make_adapter("none", {}))
    return np.concatenate([function(test).astype(np.float64), function.hardness(test)])


@pytest.mark.parametrize(("kind", "params"), DETECTORS)
@settings(max_examples=8, deadline=None)
@given(
    unit=st.lists(st.floats(1e-100, 1e100), min_size=COLUMNS, max_size=COLUMNS),
    offset=st.lists(st.floats(-1e8, 1e8), min_size=COLUMNS, max_size=COLUMNS),
)
def test_scores_do_not_depend_on_units_and_zeros(
    kind: str, params: dict[str, object], unit: list[float], offset: list[float]
) -> None:
    """Within 1e-4 of the scores' spread, for offsets up to 1e8 deviations."""
    train, test = plain_rows(120, 0), np.concatenate([plain_rows(40, 1), plain_rows(10, 2) * 6])
    moved = [(rows + np.array(offset)) * np.array(unit) for rows in (train, test)]
    before, after = score(kind, params, train, test), score(kind, params, *moved)
    assert before.std() > 0
    np.testing.assert_allclose(after, before, atol=1e-4 * before.std(), rtol=1e-4)


def test_p_values_and_injected_rows_do_not_either() -> None:
    rows = [plain_rows(n, seed) for seed, n in enumerate((200, 100, 50))]
    answers = []
    for unit, offset in ((1.0, 0.0), (2.0**-200, 2.0**30), (2.0**200, -(2.0**30))):
        train, calibration, test = ((part + offset) * unit for part in rows)
        made, _ = synthesize("cluster", train, 20, seed=0, modality=TABULAR)
        scaler = TABULAR.scaler().fit(train)
        detector = make_detector("kde", {}, seed=0).fit(scaler.transform(train))
        reference, *scored = (detector.decision_function(scaler.transform(x)) for x in (calibration, test, made))
        calibrator = ConformalCalibrator().fit(reference)
        answers.append(np.concatenate([calibrator.p_values(part) for part in scored]))
    for other in answers[1:]:
        assert np.abs(other - answers[0]).max() <= 2 / 101  # where two scores lie closer than the rounding of an offset
        assert (other == answers[0]).mean() > 0.9


@pytest.mark.parametrize("rows", [2.4e9 + np.arange(20.0)[:, None], 1e-50 * np.arange(20.0)[:, None]])
def test_raw_rows_that_float32_would_merge_are_refused_by_detectors(rows: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"column 0 varies, from .* but is one value in float32"):
        make_detector("knn", {}, seed=0).fit(rows)
