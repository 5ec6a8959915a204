"""Rows that somebody found normal stay, whichever detector suspects them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from assay.arrays import Singles
from assay.detectors.registry import make_detector

N, KIND = 400, 30


def rows() -> Singles:
    """A bulk, and at the end 30 rows of a kind of their own."""
    rng = np.random.default_rng(0)
    other = rng.standard_normal((KIND, 4)) * 0.2 + 7
    return np.concatenate([rng.standard_normal((N, 4)), other]).astype(np.float32)


def labels(verified: int) -> np.ndarray[Any, Any]:
    given = np.full(N + KIND, -1)
    given[N : N + verified] = 0
    return given


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("reach", {"share": 0.2}),
        ("rescaled", {"detector": {"reach": {"share": 0.2}}}),
        ("subsampled", {"detector": {"reach": {"share": 0.2, "n_neighbors": 2}}, "sample_size": 200}),
    ],
)
def test_verified_rows_vouch_for_their_kind(name: str, params: dict[str, Any]) -> None:
    kind = (np.random.default_rng(1).standard_normal((50, 4)) * 0.2 + 7).astype(np.float32)
    usual = rows()[:N]
    for given, is_odd in ((labels(0), True), (labels(KIND), False)):
        detector = make_detector(name, params, seed=0, device="cpu").fit(rows(), given)
        least, most = detector.decision_function(kind).min(), np.quantile(detector.decision_function(usual), 0.9)
        assert (least > most) == is_odd


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("trimmed", {"detector": "knn"}),
        ("loe", {"epochs": 3, "pretrain_epochs": 2, "members": 2, "contamination": 0.07}),
        ("ncae", {"epochs": 3, "warm_up": 2, "members": 2, "tau": 0.2}),
    ],
)
def test_verified_rows_are_never_suspects(name: str, params: dict[str, Any]) -> None:
    before: Any = make_detector(name, params, seed=0, device="cpu").fit(rows(), labels(0))
    suspects = np.flatnonzero(before.suspects_)
    assert len(suspects) > 3
    given = np.where(np.arange(N + KIND) < N - 100, 0, -1)  # else a few would speak for the whole group in `trimmed`
    given[suspects[:3]] = 0
    after: Any = make_detector(name, params, seed=0, device="cpu").fit(rows(), given)
    assert not after.suspects_[given == 0].any()
    assert after.suspects_.any()
