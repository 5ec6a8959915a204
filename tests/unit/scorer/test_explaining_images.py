"""Heat maps of a scorer of images, and the places that they name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from assay.calibration.adapters.outputs import Outputs
from assay.calibration.adapters.registry import make_adapter
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.decisions import Reference
from assay.calibration.hardness import Strata
from assay.data.modalities.image import Image
from assay.detectors.registry import make_detector
from assay.errors import InputError
from assay.scorer.batch import score_file
from assay.scorer.explaining_images import hottest_places
from assay.scorer.loading import load_scorer
from assay.scorer.scorer import ScoreFunction, Scorer

FROZEN = Path(__file__).parents[2] / "frozen"
SIDE = 12
COLUMNS = tuple(f"pixel_{row}_{column}" for row in range(SIDE) for column in range(SIDE))


def images(n: int, seed: int) -> np.ndarray:
    """Dim images, flattened."""
    return np.random.default_rng(seed).normal(100, 3, size=(n, SIDE * SIDE))


def spotted(n: int) -> np.ndarray:
    """Images with a bright square of three pixels around row 3, column 8."""
    bright = images(n, 9).reshape(n, SIDE, SIDE)
    bright[:, 2:5, 7:10] = 180
    return bright.reshape(n, -1)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    (folder,) = (path.parent for path in FROZEN.glob("scorer-1/*/scorer.json"))
    modality, rows = Image((SIDE, SIDE)), images(200, 0)
    scaler = modality.scaler().fit(rows)
    scaled = scaler.transform(rows)
    params = {"members": 1, "epochs": 20}
    detector = make_detector("fcdd", params, seed=0, modality=modality, device="cpu").fit(scaled[:100])
    null_model = modality.null_model().fit(scaled[:100])
    adapter = make_adapter("none", {}).fit(Outputs(np.zeros(1), np.zeros(1), lambda: np.zeros((1, 1, 1))))
    function = ScoreFunction(scaler, detector, null_model, adapter)
    scores = function(rows[100:])
    reference = Reference(ConformalCalibrator().fit(scores), Strata.fit(scores.astype(np.float64)))
    frozen = load_scorer(folder)
    head = {**frozen.head, "columns": list(COLUMNS)}
    return replace(frozen, head=head, function=function, reference=reference)


def test_a_heat_map_is_hottest_where_the_image_is_odd(scorer: Scorer) -> None:
    maps = scorer.heat_maps(spotted(20))
    assert maps.shape == (20, SIDE, SIDE)
    hottest = np.array([np.unravel_index(each.argmax(), each.shape) for each in maps])
    assert (np.abs(hottest - [3, 8]).max(axis=1) <= 2).mean() >= 0.9
    np.testing.assert_array_equal(maps[:1], scorer.heat_maps(spotted(20)[:1]))


def test_a_scored_file_names_the_hottest_places_of_flagged_images(scorer: Scorer, tmp_path: Path) -> None:
    frame = pd.DataFrame(np.concatenate([images(20, 5), spotted(5)]), columns=list(COLUMNS))
    frame.insert(0, "name", [f"{number}.png" for number in range(25)])
    frame.to_csv(tmp_path / "images.csv", index=False)
    score_file(scorer, tmp_path / "images.csv", tmp_path / "out.csv", explain=2)
    scored = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert list(scored) == ["name", "score", "p_value", "flagged", "because"]
    assert (scored["because"] != "").tolist() == (scored["flagged"] == 1).tolist()
    assert scored["flagged"][20:].all()
    assert scored["because"][20:].str.fullmatch(r"row \d+, column \d+; row \d+, column \d+").all()


def test_places_lie_apart() -> None:
    heat_map = np.zeros((14, 14), dtype=np.float32)
    heat_map[3, 4], heat_map[3, 5], heat_map[10, 0] = 3, 2, 1
    assert hottest_places(heat_map, 2) == [(3, 4), (10, 0)]
    assert hottest_places(np.ones((1, 2), dtype=np.float32), 5) == [(0, 0)]


def test_a_detector_without_heat_maps_is_named(scorer: Scorer) -> None:
    knn = make_detector("knn", {}, seed=0).fit(scorer.function.scaler.transform(images(50, 0)))
    other = replace(scorer, function=replace(scorer.function, detector=knn))
    assert not other.localises
    with pytest.raises(InputError, match="detector 'knn' has no heat maps; a scorer with the detector fcdd has"):
        other.heat_maps(images(2, 1))
