"""What every registered modality promises; a new one is covered by its line in the registry and its shape here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from assay.data.card import Card, read_card
from assay.data.contamination import inject
from assay.data.dataset import Dataset, RowSet, number_copies, write_dataset
from assay.data.expectations import learn_suite
from assay.data.fingerprints import fingerprints
from assay.data.modalities.base import Modality
from assay.data.modalities.image import Image
from assay.data.modalities.registry import (
    load_null_model,
    load_scaler,
    modality_classes,
    modality_fields,
    modality_of_network,
    read_modality,
)
from assay.data.modalities.series import Series
from assay.data.modalities.tabular import TABULAR, Tabular
from assay.data.recipes import synthesize
from assay.data.validation import validate_dataset
from assay.detectors.registry import make_detector
from assay.errors import ConfigError, DataError, ScorerError
from assay.parts import Part, read_part, write_part

WIDTH = 12
COLUMNS = tuple(f"c{i:02d}" for i in range(WIDTH))
EVERY = [cls(None if cls.sides is None else (4, 3)) for cls in modality_classes()]


def rows(n: int = 80, seed: int = 0) -> np.ndarray:
    """Counts: rows that any modality can hold."""
    return np.random.default_rng(seed).poisson(4, size=(n, WIDTH)).astype(np.float32)


def row_set(n: int = 80) -> RowSet:
    features = rows(n)
    about = {"row_id": [f"r{i}" for i in range(n)], "label": np.zeros(n, np.int8), "group": "", "time": ""}
    prints = fingerprints(features, COLUMNS)
    return RowSet(
        features, pd.DataFrame({**about, "copy": number_copies(prints), "fingerprint": prints.astype(object)})
    )


@pytest.mark.parametrize("modality", EVERY, ids=lambda modality: modality.name)
def test_a_modality_is_on_the_card_and_comes_back(modality: Modality, tmp_path: Path) -> None:
    card = Card("small", modality, COLUMNS, "made here")
    write_dataset(tmp_path, Dataset(card, row_set()))
    assert read_card(tmp_path) == card
    assert hash(read_card(tmp_path)) == hash(card)
    assert read_modality(modality_fields(modality)) == modality


@pytest.mark.parametrize("modality", EVERY, ids=lambda modality: modality.name)
def test_scaler_and_null_model_come_back_from_their_parts(modality: Modality, tmp_path: Path) -> None:
    scaler = modality.scaler().fit(rows())
    null_model = modality.null_model().fit(scaler.transform(rows()))
    write_part(tmp_path, "scaler", scaler.to_part())
    write_part(tmp_path, "null_model", null_model.to_part())
    scaled = load_scaler(read_part(tmp_path, "scaler")).transform(rows(seed=1))
    np.testing.assert_array_equal(scaled, scaler.transform(rows(seed=1)))
    again = load_null_model(read_part(tmp_path, "null_model")).hardness(scaled)
    np.testing.assert_array_equal(again, null_model.hardness(scaled))


def test_a_kind_is_that_of_one_class() -> None:
    for family in ("scaler_class", "null_model_class"):
        classes = {getattr(modality, family) for modality in modality_classes()}
        assert len({cls.kind for cls in classes}) == len(classes)


@pytest.mark.parametrize("modality", EVERY, ids=lambda modality: modality.name)
def test_what_its_recipes_make_is_within_its_bounds_and_can_be_scaled(modality: Modality) -> None:
    assert modality.default_recipe in modality.recipes
    low, high = modality.bounds(rows().astype(np.float64))
    for recipe in modality.recipes:
        made, _ = synthesize(recipe, rows(), 40, seed=0, modality=modality)
        assert ((low.astype(np.float32) <= made) & (made <= high.astype(np.float32))).all()
        assert np.isfinite(modality.scaler().fit(rows()).transform(made)).all()
    levels = inject(
        row_set(),
        row_set().take(np.arange(0)),
        levels=[0, 0.1],
        source="auto",
        seed=0,
        modality=modality,
        columns=COLUMNS,
    )
    assert set(levels[1].injected.rows["recipe"]) == {modality.default_recipe}


@pytest.mark.parametrize("modality", EVERY, ids=lambda modality: modality.name)
def test_the_version_that_its_expectations_are_learned_from_meets_them(modality: Modality, tmp_path: Path) -> None:
    dataset = Dataset(Card("small", modality, COLUMNS, "made here"), row_set())
    roles = {"train": dataset.data, "pool": dataset.data.take(np.arange(0))}
    assert validate_dataset(learn_suite(dataset), dataset, roles, [], docs=tmp_path).success


@pytest.mark.parametrize("modality", EVERY, ids=lambda modality: modality.name)
@pytest.mark.parametrize(("factor", "offset"), [(1.0, 2.0**31), (2.0**-170, 0.0), (2.0**200, 0.0)])
def test_offset_and_unit_of_values_make_no_difference(
    modality: Modality, factor: float, offset: float, tmp_path: Path
) -> None:
    """Scaled rows, hardness and recipes are those of the plain rows, also by a scaler that was read."""
    plain = rows().astype(np.float64)
    moved = factor * plain + offset
    scalers = [modality.scaler().fit(values) for values in (plain, moved)]
    write_part(tmp_path, "scaler", scalers[1].to_part())
    scalers[1] = load_scaler(read_part(tmp_path, "scaler"))
    assert scalers[1].precision == "float64"
    scaled = [scaler.transform(values) for scaler, values in zip(scalers, (plain, moved), strict=True)]
    np.testing.assert_allclose(scaled[1], scaled[0], atol=1e-6)
    null_model = modality.null_model().fit(scaled[0])
    np.testing.assert_allclose(null_model.hardness(scaled[1]), null_model.hardness(scaled[0]), atol=1e-5)
    for recipe in modality.recipes:
        made = [
            scaler.transform(synthesize(recipe, values, 40, seed=0, modality=modality)[0])
            for scaler, values in zip(scalers, (plain, moved), strict=True)
        ]
        np.testing.assert_allclose(made[1], made[0], atol=1e-5)


@pytest.mark.parametrize("modality", EVERY, ids=lambda modality: modality.name)
def test_detectors_get_its_network_arguments_inside_of_others_too(modality: Modality) -> None:
    expected = {"image_shape": None, "series_shape": None} | modality.network_arguments()
    assert modality_of_network(**expected).network_arguments() == modality.network_arguments()
    wrapper = make_detector("cross", {"detector": "contradicting"}, seed=0, modality=modality)
    assert expected.items() <= wrapper.get_params(deep=False).items()
    alone = make_detector("contradicting", {}, seed=0, modality=modality)
    assert expected.items() <= alone.get_params(deep=False).items()


def test_cards_have_the_fields_of_format_2(tmp_path: Path) -> None:
    """The hash of data.dvc depends on them."""
    for modality, expected in (
        (TABULAR, {"modality": "tabular", "image_shape": None}),
        (Image((4, 3)), {"modality": "image", "image_shape": [4, 3]}),
        (Series((4, 3)), {"modality": "series", "image_shape": None, "series_shape": [4, 3]}),
    ):
        write_dataset(tmp_path, Dataset(Card("small", modality, COLUMNS, "made here"), row_set()))
        written = json.loads((tmp_path / "card.json").read_text())
        seal = written.pop("sha256")
        assert set(seal) == {"features.npy", "rows.csv"}
        versions = {"format": 2, "fingerprint_scheme": 2}
        assert written == {"name": "small", "columns": list(COLUMNS), "source": "made here", **versions, **expected}


@pytest.mark.parametrize("shape", [None, (8,), (8, 0), (8, 2.5), (8, True), [8, 8], "88"])
def test_a_shape_that_is_none_is_refused(shape: object) -> None:
    with pytest.raises(ConfigError, match=r"image_shape is .*; give \(height, width\), whole numbers of at least 1"):
        Image(shape)  # type: ignore[arg-type]


def test_a_shape_that_no_columns_have_and_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tabular_shape is .*no shape"):
        Tabular((3, 4))
    with pytest.raises(DataError, match="'sound' is unknown; known: tabular, image, series"):
        read_modality({"modality": "sound"})
    with pytest.raises(ScorerError, match="'robust'"):
        load_scaler(Part("robust"))
