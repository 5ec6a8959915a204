"""Heat maps of a scorer of images, and the places that they name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pillow

from assay.calibration.adapters.outputs import Outputs
from assay.calibration.adapters.registry import make_adapter
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.decisions import Reference
from assay.calibration.hardness import Strata, fit_strata
from assay.data.dataset import RowSet
from assay.data.modalities.image import Image
from assay.detectors.registry import make_detector
from assay.errors import DataError, InputError, RequestError
from assay.runs.foremost import suspected_images, suspected_rows
from assay.scorer.batch import score_file
from assay.scorer.explaining import pieces_of
from assay.scorer.explaining_images import Tile, first_tiles, hottest_places
from assay.scorer.loading import load_scorer
from assay.scorer.score_function import ScoreFunction
from assay.scorer.scorer import Scorer
from assay.service.explaining import check_explained, explain_rows
from assay.service.limits import SERVICE_LIMITS
from assay.service.requests import Question

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
    assert scored["because"][20:].str.fullmatch(r"row \d+, column \d+(; row \d+, column \d+)?").all()


def test_files_of_images_are_scored_as_tables_of_their_pixels_are(scorer: Scorer, tmp_path: Path) -> None:
    pixels = np.concatenate([images(20, 5), spotted(5)]).clip(0, 255).astype(np.uint8)
    names = [f"{'abc'[number % 3]}/{number:02}.png" for number in range(25)]
    frame = pd.DataFrame(pixels, columns=list(COLUMNS)).assign(file=names).sort_values("file")
    frame.to_csv(tmp_path / "images.csv", index=False)
    for name, each in zip(names, pixels.reshape(-1, SIDE, SIDE), strict=True):
        (tmp_path / "shots" / name).parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(each).save(tmp_path / "shots" / name)
    np.savez(tmp_path / "shots.npz", images=frame[[*COLUMNS]].to_numpy(np.uint8).reshape(-1, SIDE, SIDE))
    results = {}
    for source in ("images.csv", "shots", "shots.npz"):
        out = tmp_path / f"{source}.out.csv"
        ids = None if source == "shots.npz" else "file"
        score_file(scorer, tmp_path / source, out, explain=2, fdr=0.2, id_column=ids)
        results[source] = pd.read_csv(out, dtype=str)
    pd.testing.assert_frame_equal(results["shots"], results["images.csv"])
    pd.testing.assert_frame_equal(results["shots.npz"].drop(columns="file"), results["shots"].drop(columns="file"))
    assert results["shots"]["flagged"].str.count("1").sum() >= 5


def test_images_of_another_size_are_resized_for_scoring(
    scorer: Scorer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = images(1, 5).clip(0, 255).astype(np.uint8).reshape(SIDE, SIDE)
    Pillow.fromarray(small.repeat(3, 0).repeat(3, 1)).save(tmp_path / "a.jpeg", quality=100)
    score_file(scorer, tmp_path, tmp_path / "out.csv")
    assert pd.read_csv(tmp_path / "out.csv")["score"].notna().all()
    assert "1 of 1 images are resized to 12 x 12" in capsys.readouterr().err


def test_a_scorer_of_tables_takes_no_images(scorer: Scorer, tmp_path: Path) -> None:
    Pillow.fromarray(np.zeros((SIDE, SIDE), dtype=np.uint8)).save(tmp_path / "a.png")
    table = replace(scorer, head={**scorer.head, "columns": [f"x{number}" for number in range(SIDE * SIDE)]})
    with pytest.raises(DataError, match="holds images, and this scorer takes none"):
        score_file(table, tmp_path, tmp_path / "out.csv")
    with pytest.raises(DataError, match="has no column 'name'; its columns are file"):
        score_file(scorer, tmp_path, tmp_path / "out.csv", id_column="name")
    assert not (tmp_path / "out.csv").exists()


def test_places_lie_apart() -> None:
    heat_map = np.zeros((14, 14), dtype=np.float32)
    heat_map[3, 4], heat_map[3, 5], heat_map[10, 0] = 3, 2, 1
    assert hottest_places(heat_map, 2) == [(3, 4), (10, 0)]
    assert hottest_places(np.ones((1, 2), dtype=np.float32), 5) == [(0, 0)]


def test_the_slope_of_a_hot_place_is_no_place_of_its_own() -> None:
    down, right = np.mgrid[:28, :28]
    near, far = (np.exp(-((down - y) ** 2 + (right - x) ** 2) / 30) for y, x in ((6, 7), (20, 21)))
    heat_map = (near + 0.3 * far).astype(np.float32)
    assert hottest_places(heat_map, 5) == [(6, 7), (20, 21)]


def test_the_report_shows_the_images_with_the_highest_scores_whatever_their_names(scorer: Scorer) -> None:
    names = ["a $x^$.png", "\N{CJK UNIFIED IDEOGRAPH-56FE}.png", "c.png"]
    rows = pd.DataFrame({"row_id": names, "label": np.int8([0, 0, 0])})
    test = RowSet(np.concatenate([images(2, 1), spotted(1)]), rows)
    order, picture = suspected_images(test, scorer)
    assert order[0] == "c.png"
    assert sorted(order) == sorted(names)
    assert picture.startswith("data:image/png;base64,")


@pytest.fixture(scope="module")
def by_knn(scorer: Scorer) -> Scorer:
    """A scorer of the same images without heat maps, with held rows."""
    scaled = scorer.function.scaler.transform(images(200, 0))
    detector = make_detector("knn", {}, seed=0).fit(scaled[:100])
    strata = fit_strata(scaled[100:150], np.arange(50.0), by_neighbourhood=False, seed=0)
    calibrator = ConformalCalibrator().fit(detector.decision_function(scaled[150:]))
    return replace(
        scorer,
        head={**scorer.head, "image_shape": [SIDE, SIDE]},
        function=replace(scorer.function, detector=detector),
        reference=replace(scorer.reference, calibrator=calibrator, strata=strata),
    )


def test_without_heat_maps_the_tiles_of_the_odd_square_are_named(by_knn: Scorer, tmp_path: Path) -> None:
    frame = pd.DataFrame(np.concatenate([images(20, 5), spotted(5)]), columns=list(COLUMNS))
    frame.to_csv(tmp_path / "images.csv", index=False)
    score_file(by_knn, tmp_path / "images.csv", tmp_path / "out.csv", explain=2)
    scored = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert scored["flagged"][20:].all()
    assert scored["because"][20:].str.fullmatch(r"(rows? \d+( to \d+)?, columns? \d+( to \d+)? \d+%(; )?){2}").all()
    explanation = by_knn.explain(spotted(5))
    (named,) = {
        first_tiles(shares, pieces_of(by_knn.head), (SIDE, SIDE), 1)[0].rows[0] // 2 for shares in explanation.shares
    }
    assert named == 1, "the tiles of rows 2 to 4 are named"
    first = explanation.shares.reshape(5, SIDE, SIDE)
    assert (first[:, 2:5, 7:10].sum(axis=(1, 2)) > 0.6).all()
    assert str(Tile((3, 3), (4, 5), 0.5)) == "row 3, columns 4 to 5 50%"


def test_the_report_says_why_the_rows_with_the_highest_scores_have_them(by_knn: Scorer) -> None:
    rows = pd.DataFrame({"row_id": ["a", "b", "c"], "label": np.int8([0, 0, 0])})
    first, *others = suspected_rows(RowSet(np.concatenate([images(2, 1), spotted(1)]), rows), by_knn)
    assert first.startswith("c (row")
    assert len(others) == 2
    old = replace(by_knn, reference=replace(by_knn.reference, strata=Strata(np.zeros(0))))
    assert suspected_rows(RowSet(images(3, 1), rows), old) == []


def test_the_service_names_tiles(by_knn: Scorer) -> None:
    (why,) = explain_rows(by_knn, Question(spotted(1), explain=2))
    assert [set(tile) for tile in why["because"]] == [{"rows", "columns", "share"}] * 2
    assert 2 <= why["because"][0]["rows"][0] <= 4
    check_explained(by_knn, 100, SERVICE_LIMITS)
    with pytest.raises(RequestError, match="300 rows counted as 64 columns"):
        check_explained(by_knn, 300, SERVICE_LIMITS)


def test_a_detector_without_heat_maps_is_named(scorer: Scorer) -> None:
    knn = make_detector("knn", {}, seed=0).fit(scorer.function.scaler.transform(images(50, 0)))
    other = replace(scorer, function=replace(scorer.function, detector=knn))
    assert not other.localises
    with pytest.raises(InputError, match="detector 'knn' has no heat maps; a scorer with the detector fcdd has"):
        other.heat_maps(images(2, 1))


def test_the_tiles_of_images_in_colours_are_of_places_not_of_colours() -> None:
    pieces, shares = pieces_of({"columns": [], "image_shape": [16, 24, 3]}), np.zeros((16, 24, 3))
    shares[5, 20, 1], shares[4, 19, 2], shares[15, 0, 0] = 0.5, 0.25, 0.25
    assert pieces.max() == 63
    tiles = first_tiles(shares.reshape(-1), pieces, (16, 24, 3), 2)
    assert tiles == [Tile((4, 5), (18, 20), 0.75), Tile((14, 15), (0, 2), 0.25)]
