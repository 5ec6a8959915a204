"""Batches of images and texts that changed as a whole are stopped, by lines that name how."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.texts import made_up

from assay.arrays import Doubles
from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet
from assay.data.drift import compare
from assay.data.modalities.image import Image, pixel_columns
from assay.data.modalities.text import Text
from assay.data.reference import learn_reference
from assay.data.words import WORD_COLUMNS, Codes, document_rows

SHAPE = (18, 18, 3)


def images(n: int, seed: int) -> Doubles:
    rng = np.random.default_rng(seed)
    smooth = rng.normal(size=(n, 6, 6, 3)).repeat(3, axis=1).repeat(3, axis=2)
    return 100 + 20 * smooth.reshape(n, -1) + rng.normal(size=(n, 972))


def as_rows(features: Doubles) -> RowSet:
    n = len(features)
    rows = {"row_id": [f"r{i}" for i in range(n)], "label": np.zeros(n, np.int8), "group": "", "time": "", "copy": 0}
    return RowSet(features, pd.DataFrame(rows))


def moved(card: Card, before: Doubles, now: Doubles) -> set[str]:
    """Return the columns with a line whose p-value is at most .01."""
    frame = compare(learn_reference(Dataset(card, as_rows(before))), card, as_rows(now))
    return set(frame["column"][frame["p"] <= 0.01])


def test_large_images_are_judged_by_what_people_see() -> None:
    card = Card("shots", Image(SHAPE), pixel_columns(SHAPE), "made here")
    before, now = images(300, 0), images(300, 1)
    assert moved(card, before, now) == set()
    assert {"mean", "mean of red", "darkest", "lightest"} <= moved(card, before, now + 40)
    assert "contrast" in moved(card, before, 100 + 0.5 * (now - 100))
    red = now.reshape(300, 18, 18, 3) * [1.4, 1, 1]
    assert "mean of red" in moved(card, before, red.reshape(300, -1))
    assert "mean of blue" not in moved(card, before, red.reshape(300, -1))
    grainy = now + 15 * np.random.default_rng(2).normal(size=now.shape)
    assert "detail" in moved(card, before, grainy)


@pytest.mark.parametrize(("change", "column"), [("script", "share of words in LATIN"), ("empty", "words")])
def test_texts_in_another_script_and_empty_ones_are_told(change: str, column: str) -> None:
    codes, odd = Codes(), Codes()
    before, fine = (document_rows(made_up(300, seed=seed), codes) for seed in (0, 1))
    other = "" if change == "empty" else "привет большой мир"
    texts = [other if i % 4 == 0 else text for i, text in enumerate(made_up(300))]
    now = document_rows(texts, odd)
    words = tuple(dict.fromkeys((*codes.words, *odd.words)))
    card = Card("mail", Text(), WORD_COLUMNS, "made here", text_column="body", words=words)
    assert moved(card, before, fine) == set()
    assert column in moved(card, before, now)
