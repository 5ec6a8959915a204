"""What scored rows are compared by: categories whatever form they come in, and tie breaks by content."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from assay.calibration.decisions import tie_breaks
from assay.data.categories import category_texts
from assay.errors import InputError


@pytest.mark.parametrize(
    "three",
    [3, 3.0, "3", "3.0", " 3 ", np.int8(3), np.float32(3), np.str_("3"), "3.000"],
    ids=repr,
)
def test_a_category_is_the_same_in_every_form(three: Any) -> None:
    assert category_texts([three]).tolist() == ["3"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("007", "007"),
        ("3.10", "3.10"),
        (3.5, "3.5"),
        (np.float32(0.1), "0.1"),
        ("v1.0", "v1.0"),
        (-2.0, "-2"),
        ("", ""),
    ],
)
def test_what_is_no_whole_number_stays_as_it_is(value: Any, text: str) -> None:
    assert category_texts(["a", value]).tolist() == ["a", text]


def test_missing_categories_are_empty() -> None:
    missing = [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, "  "]
    assert category_texts(missing).tolist() == [""] * len(missing)
    assert category_texts([]).shape == (0,)


@pytest.mark.parametrize("value", [["a"], {}, b"a"], ids=repr)
def test_what_is_neither_text_nor_number_is_no_category(value: Any) -> None:
    with pytest.raises(InputError, match="row 1: the category is"):
        category_texts(["a", value])


def test_a_row_breaks_ties_by_its_content_alone() -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 3)).astype(np.float32)
    breaks = tie_breaks(rows)
    np.testing.assert_array_equal(tie_breaks(rows[::-1])[::-1], breaks)
    np.testing.assert_array_equal(tie_breaks(rows[7:8].astype(np.float64)), breaks[7:8])
    assert tie_breaks(np.array([[0.0, 1.0]])) == tie_breaks(np.array([[-0.0, 1.0]]))
    assert len(np.unique(breaks)) == len(rows)
    assert ((breaks >= 0) & (breaks < 1)).all()
    assert abs(np.mean(breaks <= 0.1) - 0.1) < 0.03
