"""Why a text has its score, by detectors that read words and by those that do not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from tests.texts import THEMES, made_up

from assay.calibration.hardness import HoldingStrata
from assay.data.documents import DocumentScaler
from assay.data.words import Codes, document_rows, word_code
from assay.detectors.methods.cvdd import CVDD
from assay.detectors.registry import make_detector
from assay.scorer.explaining_words import ReadDocument, read_documents, word_contributions

BANK = THEMES[:1]


@pytest.fixture(scope="module")
def codes() -> Codes:
    codes = Codes()
    document_rows([*made_up(120, BANK), "harbour harbour harbour"], codes)
    return codes


def read(codes: Codes, kind: str, texts: list[str]) -> list[ReadDocument]:
    rows = document_rows([*made_up(120, BANK), "harbour harbour harbour"])
    scaler = DocumentScaler(codes.words, sequences=kind == "cvdd").fit(rows)
    detector: Any
    if kind == "cvdd":
        detector = CVDD(epochs=10, members=1, device="cpu").fit(scaler.transform(rows), lexicon=scaler.lexicon)
    else:
        detector = make_detector(kind, {}, seed=0).fit(scaler.transform(rows))

    def score(features: Any) -> Any:
        return detector.decision_function(scaler.transform(features))

    return read_documents(detector, scaler, score, document_rows(texts))


def test_other_detectors_name_the_word_without_which_the_score_falls_most(codes: Codes) -> None:
    odd, usual = read(codes, "knn", ["bank loan harbour interest rate and credit", "bank loan interest rate"])
    assert next(iter(odd.words)) == "harbour"
    assert not odd.attended
    assert odd.context is None
    assert odd.sentence(1).startswith("harbour ")
    assert max(usual.words.values()) < odd.words["harbour"]
    assert list(odd.words.values()) == sorted(odd.words.values(), reverse=True)
    assert (odd.unknown, odd.counted) == (0, 6)


def test_a_text_that_no_word_makes_odd_says_so() -> None:
    document = ReadDocument({"bank": -0.5, "loan": 0.0}, 2, 4, False, None, (), np.empty(0))
    assert document.sentence(3) == "no known word raises the score by itself; 2 of 4 words unknown"


def test_those_that_read_words_name_the_context_and_the_attended_words(codes: Codes) -> None:
    first, nothing = read(codes, "cvdd", ["bank loan bank unheard", "unheard of"])
    assert first.attended
    assert set(first.words) == {"bank", "loan"}
    assert sum(first.words.values()) == pytest.approx(1)
    assert first.distances.shape == (3,)
    assert first.sentence(1).startswith(f"nearest context {first.context} (")
    assert nothing.context is None
    assert nothing.sentence(1) == "no known word; 1 of 1 words unknown"


def test_scaling_and_reading_texts_need_no_pandas() -> None:
    code = (
        "import sys, assay.scorer.scorer, assay.scorer.explaining_words, assay.detectors.methods.cvdd; "
        "assert not {'pandas', 'pyarrow', 'rich', 'sklearn'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["knn", "cvdd"])
def test_contributions_of_words_add_up_to_the_excess_over_the_nearest_normal_texts(codes: Codes, kind: str) -> None:
    rows = document_rows([*made_up(120, BANK), "harbour harbour harbour"])
    scaler = DocumentScaler(codes.words, sequences=kind == "cvdd").fit(rows)
    scaled = scaler.transform(rows)
    detector: Any = CVDD(epochs=10, members=1, device="cpu") if kind == "cvdd" else make_detector(kind, {}, seed=0)
    detector.fit(scaled, **({"lexicon": scaler.lexicon} if kind == "cvdd" else {}))
    normals = HoldingStrata(np.zeros(0), scaled[:60])
    asked = document_rows(["bank loan harbour interest rate and credit", "bank unheard loan loan", "unheard"])
    added, without = word_contributions(scaler, detector.decision_function, normals, asked)
    near = normals.nearest(scaler.transform(asked[:2]), 3)
    of_near = detector.decision_function(near.reshape(6, -1)).reshape(2, 3).mean(axis=1)
    excess = detector.decision_function(scaler.transform(asked[:2])) - of_near
    np.testing.assert_allclose(added[:2].sum(axis=1), excess, atol=1e-5)
    assert added[1, 2] == added[1, 3] != 0, "a word that occurs twice shares its contribution"
    assert added[1, 1] == 0
    assert not added[2].any(), "no word is known"
    assert [len(row[~np.isnan(row)]) for row in asked] == [7, 4, 1]
    first = without[0][~np.isnan(without[0])]
    assert len(first) == 6
    assert added[0].argmax() == np.flatnonzero(~np.isin(asked[0, :7], first))[0]
    if kind == "knn":
        assert asked[0, added[0].argmax()] == word_code("harbour")
