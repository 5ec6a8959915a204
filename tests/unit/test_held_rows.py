"""Of very many rows a random sample is used, whatever their order, and on record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet, write_dataset, write_rows
from assay.data.encoding import Encoder
from assay.data.modalities.registry import load_scaler
from assay.data.modalities.tabular import TABULAR
from assay.detectors.baselines import base
from assay.detectors.registry import load_detector, make_detector
from assay.names import Choice
from assay.parts import read_part
from assay.pipeline import rows as rows_module
from assay.pipeline.rows import calibration_rows, evidence_rows, held_to, level_rows, sampled_level_rows
from assay.pipeline.training import train


def data(n: int, group: str = "", category: str = "") -> RowSet:
    prints = [f"{i:032x}" for i in range(n)]
    table = pd.DataFrame({"row_id": prints, "label": np.int8(0), "group": group, "fingerprint": prints, "copy": 0})
    return RowSet(np.arange(2.0 * n).reshape(n, 2), table.assign(category=category) if category else table)


def test_a_sample_has_its_size_and_order_and_depends_on_contents_and_seed_alone() -> None:
    many = data(1000)
    assert held_to(many, 1000, seed=1) is many
    sample = held_to(many, 200, seed=1)
    assert len(sample) == 200
    assert (np.diff(sample.features[:, 0]) > 0).all()
    order = np.random.default_rng(0).permutation(1000)
    again = held_to(many.take(order), 200, seed=1)
    assert set(again.rows["row_id"]) == set(sample.rows["row_id"])
    assert set(held_to(many, 200, seed=2).rows["row_id"]) != set(sample.rows["row_id"])
    assert len(set(held_to(data(1100), 200, seed=1).rows["row_id"]) & set(sample.rows["row_id"])) > 160


def test_a_sample_is_uniform() -> None:
    many = data(400)
    counts = sum(np.isin(many.features[:, 0], held_to(many, 100, seed=seed).features[:, 0]) for seed in range(200))
    assert isinstance(counts, np.ndarray)
    assert np.abs(counts - 50).max() < 5 * np.sqrt(200 * 0.25 * 0.75)
    assert abs(np.corrcoef(counts, np.arange(400))[0, 1]) < 0.2


def test_large_groups_give_up_rows_before_any_group_is_left_out() -> None:
    many = data(1000)
    many.rows["group"] = [f"g{i // 10}" if i < 900 else "" for i in range(1000)]
    sample = held_to(many, 300, seed=0)
    assert len(sample) == 280
    assert set(sample.rows.loc[sample.rows["group"] != "", "group"].value_counts()) == {2}
    assert (sample.rows["group"] == "").sum() == 100
    many.rows["group"] = [f"g{i // 400}" for i in range(1000)]
    assert held_to(many, 300, seed=0).rows["group"].value_counts().to_dict() == {"g0": 100, "g1": 100, "g2": 100}
    many.rows["group"] = [f"g{i // 2}" for i in range(1000)]
    assert set(held_to(many, 300, seed=0).rows["group"].value_counts()) == {1}


@pytest.mark.parametrize("group", ["", "of three"])
def test_the_sample_of_a_level_is_that_of_all_its_rows(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "MOST_TRAINED", 100)
    many = data(900)
    many.rows["group"] = [f"g{i // 3}" if group else "" for i in range(900)]
    many.rows["label"] = np.where(np.arange(900) < 5, -1, 0).astype(np.int8)
    clean, added = many.take(np.arange(700)), many.take(np.arange(700, 900))
    write_rows(tmp_path / "train", clean)
    write_rows(tmp_path / "contaminated" / "level-0", added.take(np.arange(0)))
    write_rows(tmp_path / "contaminated" / "level-0.2", added)
    for level, n in (("level-0", 700), ("level-0.2", 900)):
        source = tmp_path / "train", tmp_path / "contaminated", level
        expected = held_to(level_rows(*source), 100, seed=1)
        sample, n_rows = sampled_level_rows(*source, seed=1)
        assert n_rows == n
        np.testing.assert_array_equal(sample.features, expected.features)
        pd.testing.assert_frame_equal(sample.rows.drop(columns="verified"), expected.rows, check_dtype=False)
        assert (sample.rows["verified"] == ((expected.rows["label"] == 0) & (expected.rows["injected"] == 0))).all()
    write_rows(tmp_path / "train", clean.take(np.arange(500)))
    assert sampled_level_rows(*source, seed=1)[1] == 700, "what is kept of train is that of the files of now"


def test_a_category_that_the_sample_of_training_rows_lacks_is_rare_and_not_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "MOST_TRAINED", 100)
    many = data(700)
    many.features[:, 1] = 0
    injected = many.take(np.arange(10))
    sampled = set(held_to(many, 100, seed=0).features[:, 0])
    outside = [i for i in range(700) if many.features[i, 0] not in sampled][:2]
    many.features[outside[0], 1], many.features[outside[1], 1] = 1, np.nan
    vocabulary = {"type": ("usual", "rare", "new")}
    card = Card("plant", TABULAR, ("x", "type"), "a test", vocabulary=vocabulary, imputed=("type",))
    write_dataset(tmp_path / "data", Dataset(card, many))
    write_rows(tmp_path / "train", many)
    write_rows(tmp_path / "contaminated" / "level-0", many.take(np.arange(0)))
    write_rows(tmp_path / "contaminated" / "level-0.1", injected)
    train(
        tmp_path / "out",
        card=tmp_path / "data",
        train=tmp_path / "train",
        contaminated=tmp_path / "contaminated",
        checkpoints=tmp_path / "checkpoints",
        detector=Choice("knn", "knn", {}),
        seed=0,
        device="cpu",
    )
    scaler = load_scaler(read_part(tmp_path / "out" / "level-0", "scaler"))
    assert isinstance(scaler, Encoder)
    assert scaler.vocabulary == {1: ("usual", "rare")}
    rows = np.array([[0, 0], [0, 1], [0, 2], [0, np.nan]])
    assert scaler.lacks(rows).tolist() == [False, False, True, True]
    assert len(np.unique(scaler.transform(rows), axis=0)) == 4


def test_small_categories_lose_no_calibration_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MOST_CALIBRATION", 200)
    monkeypatch.setattr(rows_module, "FEWEST_A_CATEGORY", 20)
    many = data(1000, category="large")
    many.rows.loc[:29, "category"] = "small"
    write_rows(tmp_path, many)
    held = calibration_rows(tmp_path, within="category", seed=0)
    assert held.rows["category"].value_counts().to_dict() == {"large": 170, "small": 30}
    assert len(calibration_rows(tmp_path, within="all", seed=0)) == 200
    many.rows["category"] = [f"c{i // 25}" for i in range(1000)]
    write_rows(tmp_path / "many", many)
    held = calibration_rows(tmp_path / "many", within="category", seed=0)
    assert set(held.rows["category"].value_counts()) == {20}, "a category keeps enough rows to be flagged in"


def test_no_more_rows_judge_than_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MOST_JUDGED", 150)
    many = data(1000)
    many.rows.loc[:399, "label"] = 1
    write_rows(tmp_path, many)
    normals, anomalies, kind = evidence_rows(tmp_path)
    assert (len(normals), len(anomalies), kind) == (150, 150, "labels")
    assert (anomalies.labels == 1).all()


@pytest.mark.parametrize("kind", ["knn", "lof", "kde"])
def test_a_detector_that_stores_rows_keeps_a_sample_and_says_so(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MOST_STORED", 100)
    rows = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    for name, params in ((kind, {}), ("rescaled", {"detector": kind})):
        detector = make_detector(name, params, seed=0).fit(rows)
        part = detector.to_part()
        stored = next(array for key, array in part.arrays.items() if key.endswith("rows"))
        assert (len(stored), detector.n_left_out_) == (100, 200)  # type: ignore[attr-defined]
        again = make_detector(name, params, seed=0).fit(rows).to_part().arrays
        assert all(np.array_equal(array, again[key]) for key, array in part.arrays.items())
        np.testing.assert_array_equal(load_detector(part).decision_function(rows), detector.decision_function(rows))
    monkeypatch.setattr(base, "MOST_STORED", 300)
    assert make_detector(kind, {}, seed=0).fit(rows).n_left_out_ == 0  # type: ignore[attr-defined]


def test_many_queries_of_a_tree_have_the_answers_of_few() -> None:
    rng = np.random.default_rng(0)
    rows, asked = (rng.normal(size=(n, 3)).astype(np.float32) for n in (500, base.ROWS_PER_WORKER + 10))
    for kind in ("knn", "lof", "reach"):
        detector = make_detector(kind, {}, seed=0).fit(rows)
        apart = np.concatenate([detector.decision_function(asked[i : i + 50]) for i in range(0, len(asked), 50)])
        np.testing.assert_array_equal(detector.decision_function(asked), apart)
