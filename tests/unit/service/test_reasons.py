"""?explain=k: the reasons in answers, for tables, texts and images, within a limit, apart from small requests."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator
from numpy.typing import NDArray
from tests.texts import ODD, THEMES, made_up
from tests.unit.service.conftest import Serve
from tests.unit.service.test_routes import TINY, Gate, assert_refused, content, with_detector
from tests.waiting import HANG_SECONDS

from assay.calibration.adapters.outputs import Outputs
from assay.calibration.adapters.registry import make_adapter
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.hardness import NeighbourhoodStrata
from assay.data.documents import DocumentScaler
from assay.data.modalities.image import Image
from assay.data.words import Codes, document_rows
from assay.detectors.registry import make_detector
from assay.scorer.explaining_images import hottest_places
from assay.scorer.scorer import Scorer
from assay.service.explaining import check_explained, explain_rows
from assay.service.formats import ARROW
from assay.service.limits import SERVICE_LIMITS
from assay.service.requests import Question


@pytest.fixture(scope="module")
def explaining(scorer: Scorer) -> Scorer:
    """The scorer, with normal rows to explain others by."""
    rows = np.random.default_rng(1).normal(15, 5, size=(60, len(scorer.columns)))
    strata = NeighbourhoodStrata.fit_rows(scorer.function.scaler.transform(rows), seed=0)
    calibrator = ConformalCalibrator().fit(scorer.function(rows))
    return replace(scorer, reference=replace(scorer.reference, strata=strata, calibrator=calibrator))


@pytest.fixture(scope="module")
def rows(scorer: Scorer) -> NDArray[Any]:
    rows = np.random.default_rng(0).normal(15, 5, size=(4, len(scorer.columns)))
    rows[1, 7] += 1e4
    return rows


def test_reasons_are_those_of_the_scorer(explaining: Scorer, rows: NDArray[Any], serving: Serve) -> None:
    with serving(explaining, SERVICE_LIMITS) as (client, _):
        answer = client.post("/score?explain=2", json=content(explaining, rows)).json()
        plain = client.post("/score", json=content(explaining, rows)).json()
        arrow = client.post("/score?explain=2", json=content(explaining, rows), headers={"accept": ARROW}).content
        document = client.get("/openapi.json").json()
    Draft202012Validator({"$ref": "#/components/schemas/Answer", "components": document["components"]}).validate(answer)
    explanation = explaining.explain(rows)
    assert answer["results"][1]["because"][0]["column"] == explaining.columns[7]
    for number, row in enumerate(answer["results"]):
        assert {key: row[key] for key in ("score", "p_value", "flagged")} == plain["results"][number]
        assert row["p_without_first"] == explanation.p_without[number]
        first = np.argsort(-explanation.shares[number])[:2]
        assert [why["column"] for why in row["because"]] == [explaining.columns[c] for c in first]
        assert [why["contribution"] for why in row["because"]] == explanation.contributions[number, first].tolist()
    assert pa.ipc.open_stream(arrow).read_all().to_pylist() == answer["results"]


def test_no_rows_have_no_reasons(explaining: Scorer, serving: Serve) -> None:
    with serving(explaining, SERVICE_LIMITS) as (client, _):
        assert client.post("/score?explain=1", json=content(explaining, np.empty((0, 30)))).json()["results"] == []


@pytest.mark.parametrize("value", ["0", "101", "-1", "1.0", "x", "", "٣", "9" * 5000])
def test_other_numbers_of_reasons_are_refused(
    explaining: Scorer, rows: NDArray[Any], serving: Serve, value: str
) -> None:
    with serving(explaining, SERVICE_LIMITS) as (client, _):
        response = client.post("/score", params={"explain": value}, json=content(explaining, rows))
    assert_refused(response, 400, "give a whole number of reasons for each row, from 1 to 100")


def test_reasons_have_a_limit(explaining: Scorer, rows: NDArray[Any], serving: Serve) -> None:
    limits = replace(SERVICE_LIMITS, explained=3 * 30**2)
    with serving(explaining, limits) as (client, _):
        assert client.post("/score?explain=1", json=content(explaining, rows[:3])).status_code == 200
        response = client.post("/score?explain=1", json=content(explaining, rows))
    assert_refused(
        response, 413, "4 rows of 30 columns, and rows x columns x columns may be at most 2700: send at most 3"
    )


def test_a_scorer_without_normal_rows_says_so(scorer: Scorer, rows: NDArray[Any], serving: Serve) -> None:
    with serving(scorer, SERVICE_LIMITS) as (client, _):
        response = client.post("/score?explain=1", json=content(scorer, rows))
    assert_refused(response, 400, "holds no normal rows to explain others by")


def test_small_requests_do_not_wait_for_reasons(explaining: Scorer, rows: NDArray[Any], serving: Serve) -> None:
    """The paths of one row to its neighbours are more rows than the gate lets through at once."""
    from concurrent.futures import ThreadPoolExecutor

    gate = Gate(explaining.function.detector)
    with (
        serving(with_detector(explaining, gate), TINY) as (client, _),
        ThreadPoolExecutor(1) as pool,
        gate,
    ):
        body = json.dumps(content(explaining, rows[:1]))
        job = pool.submit(client.post, "/score?explain=1", content=body)
        assert gate.entered.acquire(timeout=HANG_SECONDS)
        assert client.post("/score", content=body).status_code == 200
        assert not job.done()
        gate.opened.set()
        answered: httpx.Response = job.result()
        assert len(answered.json()["results"][0]["because"]) == 1


def test_words_of_texts_are_reasons(scorer: Scorer) -> None:
    codes = Codes()
    texts = document_rows(made_up(90, THEMES), codes)
    scaler = DocumentScaler(codes.words, sequences=False).fit(texts)
    detector = make_detector("knn", {}, seed=0).fit(scaler.transform(texts))
    adapter = make_adapter("none", {}).fit(Outputs(np.zeros(1), np.zeros(1), lambda: np.zeros((1, 1, 1))))
    function = replace(scorer.function, scaler=scaler, detector=detector, adapter=adapter)
    of_texts = replace(scorer, head={**scorer.head, "columns": ["body"]}, function=function)
    asked = np.array([[" ".join([*THEMES[0][:3], "harvest", *ODD[:2]])]], dtype=object)
    (why,) = explain_rows(of_texts, Question(asked, explain=3))
    (document,) = of_texts.explain_texts(asked)
    assert why["because"] == [{"word": word, "share": share} for word, share in document.shares(3).items()]
    assert why["because"][0]["word"] == next(iter(document.words))
    assert (why["unknown_words"], why["counted_words"], why["nearest_context"]) == (2, 6, None)
    check_explained(of_texts, 400, SERVICE_LIMITS)
    with pytest.raises(ValueError, match="401 rows counted as 50 columns"):
        check_explained(of_texts, 401, SERVICE_LIMITS)


def test_places_of_images_are_reasons(scorer: Scorer) -> None:
    modality, rows = Image((14, 14)), np.random.default_rng(0).normal(100, 3, size=(60, 196))
    scaler = modality.scaler().fit(rows)
    params = {"members": 1, "epochs": 1}
    detector = make_detector("fcdd", params, seed=0, modality=modality, device="cpu").fit(scaler.transform(rows))
    columns = [f"pixel-{number}" for number in range(196)]
    function = replace(scorer.function, scaler=scaler, detector=detector)
    of_images = replace(scorer, head={**scorer.head, "columns": columns}, function=function)
    whys = explain_rows(of_images, Question(rows[:2], explain=2))
    expected = [hottest_places(heat_map, 2) for heat_map in of_images.heat_maps(rows[:2])]
    assert [[(place["row"], place["column"]) for place in why["because"]] for why in whys] == expected
