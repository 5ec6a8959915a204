"""A modality that the package does not know: one class, one line in the registry, and every verb takes it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from assay.data.answers import ensure_answers
from assay.data.card import read_card
from assay.data.dataset import Dataset, RowSet, read_rows, write_dataset
from assay.data.expectations import learn_suite
from assay.data.labelling import ensure_labels
from assay.data.modalities.base import Modality, RawDataset
from assay.data.modalities.registry import MODALITIES
from assay.data.public_sets import load_named
from assay.data.quarantine import ensure_quarantine
from assay.data.ranges import Expectation, column_expectations, expectation
from assay.data.scaling import Precision, Scaler, Standard
from assay.data.target import ensure_target
from assay.errors import DataError, ScorerError, ValidationFailedError
from assay.parts import Part, read_json, write_json
from assay.project.freshness import run_verb
from assay.project.layout import Project
from assay.scorer.loading import load_scorer

ROOT = Path(__file__).parents[2]
PARAMS: dict[str, Any] = {
    "dataset": "visits",
    "datasets": ["visits"],
    "eps": 0.1,
    "split": {"seed": 0},
    "contaminate": {"levels": [0, 0.1], "source": "auto", "labelled": 0, "seed": 1},
    "train": {"seed": 0, "device": "cpu"},
    "calibrate": {"within": "all", "ties": "counted", "promise": "average", "seed": 2},
    "detectors": {"knn": {}, "isolation_forest": {"n_estimators": 20}, "mcd": {}, "cross": {"folds": 3}},
    "adapters": ["none", "ares"],
    "select": {"seed": 0, "without_labels": "probes"},
    "run": {"cells_at_once": 1, "runner": "local", "address": ""},
}


class LogStandard:
    """The logarithm of 1 + counts, then by column."""

    kind: ClassVar[str] = "log_standard"
    precision: Precision = "float64"

    def fit(self, X: NDArray[Any]) -> Self:
        self.standard_ = Standard().fit(self._logarithms(X))
        return self

    def transform(self, X: NDArray[Any]) -> NDArray[np.float32]:
        return self.standard_.transform(self._logarithms(X))

    def _logarithms(self, X: NDArray[Any]) -> NDArray[np.float64]:
        if (X < 0).any():
            raise DataError("a count is below 0; correct or remove the row")
        return np.log1p(X.astype(np.float64))

    def to_part(self) -> Part:
        standard = self.standard_.to_part()
        return Part(self.kind, standard.config, standard.arrays)

    @classmethod
    def from_part(cls, part: Part) -> Self:
        scaler = cls()
        scaler.standard_ = Standard.from_part(part)
        return scaler


def counts(n: int, seed: int, rate: float = 30.0) -> NDArray[np.float64]:
    rates = rate * np.exp(np.random.default_rng(seed).normal(scale=0.5, size=(n, 1))) * [1.0, 2.0, 0.5, 4.0]
    return np.random.default_rng((seed, 1)).poisson(rates).astype(np.float64)


def visits(mirror: Path | None) -> RawDataset:
    """Visits of 900 pages on four days, none known to be odd."""
    return RawDataset(("mon", "tue", "wed", "thu"), None, "made here", counts(900, 0), np.zeros(900, dtype=np.bool_))


class Counts(Modality):
    """Counts of events: never below 0, and their spread grows with them."""

    name = "counts"
    scaler_class: ClassVar[type[Scaler]] = LogStandard
    sets: ClassVar = {"visits": visits}

    def bounds(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.maximum(super().bounds(X), 0.0)

    def expectations(self, columns: tuple[str, ...]) -> list[Expectation]:
        least = [expectation("expect_column_values_to_be_between", column=name, min_value=0) for name in columns]
        return column_expectations(columns) + least


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with counts in it: one line in the registry is all that the package learns of them."""
    monkeypatch.setitem(MODALITIES, "counts", Counts)
    dataset = load_named("visits", mirror=None, cache=tmp_path)
    return make_project(tmp_path / "project", dataset)


def make_project(root: Path, dataset: Dataset) -> Project:
    root.mkdir()
    shutil.copy(ROOT / "dvc.yaml", root)
    write_dataset(root / "data/visits", dataset)
    write_json(root / "expectations/visits.json", learn_suite(dataset))
    for ensure in (ensure_answers, ensure_quarantine, ensure_labels, ensure_target):
        ensure(root, "visits")
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    return Project(root)


def test_every_verb_takes_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in project.stages:
        run_verb(project, stage)
    assert read_json(project.folder("split") / "split.json")["evidence"] == "probes"
    for made in ("split/selection/probes", "split/test/probes", "split/gate/probes", "contaminate/level-0.1"):
        stage, _, rest = made.partition("/")
        assert (read_rows(project.folder(stage) / rest).features >= 0).all()
    (folder,) = (path for path in project.folder("package").iterdir() if path.is_dir())
    head = read_json(folder / "scorer.json")
    assert {"modality": "counts", "image_shape": None}.items() <= head.items()
    assert head["parts"]["scaler"]["kind"] == "log_standard"
    scorer = load_scorer(folder)
    assert scorer.predict(counts(2000, 5)).mean() < 0.15
    assert scorer.predict(counts(200, 6) * [1, 30, 1, 30]).mean() > 0.9
    monkeypatch.delitem(MODALITIES, "counts")
    with pytest.raises(ScorerError, match="'log_standard'"):
        load_scorer(folder)
    with pytest.raises(DataError, match="'counts' is unknown; known: tabular, image, series"):
        read_card(project.data)


def test_its_expectations_are_held(project: Project) -> None:
    data = project.data
    spoilt = read_rows(data)
    spoilt.features[3, 1] = -1
    dataset = load_named("visits", mirror=None, cache=data)
    write_dataset(data, Dataset(dataset.card, RowSet(spoilt.features, spoilt.rows)))
    for stage in ("split", "contaminate"):
        run_verb(project, stage)
    with pytest.raises(ValidationFailedError, match=r"tue.*visits-0003"):
        run_verb(project, "validate")
