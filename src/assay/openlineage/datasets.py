"""The datasets of OpenLineage events: names, versions, schemas, metrics and contamination."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import attr
import numpy as np
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    DatasetFacet,
    InputDatasetFacet,
    data_quality_metrics_input_dataset,
    dataset_version_dataset,
    output_statistics_output_dataset,
    schema_dataset,
)

from assay.data.dataset import Card, read_card
from assay.hashing import dvc_directory_md5, files_of
from assay.parts import read_json
from assay.project.layout import Project
from assay.project.stages import STAGES

NAMESPACE = "file"
_NUMBERS = {"label": "int8", "contradicted": "int8", "seen": "int8", "copy": "int64"}
_DESCRIPTIVE_FILES = ("card.json", "split.json", "plan.json", "record.json")
SCHEMA_ID = "urn:uuid:523d8656-4099-4a17-9703-f8186d4c1bab"

Facets = dict[str, DatasetFacet]
Metrics = data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet
ColumnMetrics = data_quality_metrics_input_dataset.ColumnMetrics
Field = schema_dataset.SchemaDatasetFacetFields


@attr.define
class AssayContaminationDatasetFacet(DatasetFacet):
    """Contamination of the training rows of a level; contamination_facet.json describes the fields.

    The schema has no public address. Its URN never changes, as OpenLineage requires of a schema version; the file is in
    the package.
    """

    injectedRho: float  # noqa: N815
    nInjected: int  # noqa: N815
    nTrain: int  # noqa: N815
    nLabelled: int  # noqa: N815
    naturalRhoKnown: bool  # noqa: N815
    naturalAnomaliesKnown: int  # noqa: N815
    naturalRowsUnknown: int  # noqa: N815
    source: str
    seed: int
    naturalRho: float | None = None  # noqa: N815

    @staticmethod
    def _get_schema() -> str:
        return f"{SCHEMA_ID}#/$defs/AssayContaminationDatasetFacet"


def input_datasets(project: Project, job: str) -> list[InputDataset]:
    """Return what a stage (or "run", the whole run) reads, as far as it exists."""
    datasets = []
    for path in _inputs(project, job):
        metrics = _metrics(project, path)
        facets: dict[str, InputDatasetFacet] = {} if metrics is None else {"dataQualityMetrics": metrics}
        datasets.append(InputDataset(NAMESPACE, path.as_posix(), facets=_facets(project, path), inputFacets=facets))
    return datasets


def output_datasets(project: Project, job: str) -> list[OutputDataset]:
    """Return what a stage (or "run", the whole run) has written."""
    datasets = []
    for path in _parts(project, project.root / project.stage("package" if job == "run" else job).folder):
        size = sum(file.stat().st_size for file in files_of(path))
        statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=_n_rows(path), size=size, fileCount=len(files_of(path))
        )
        facets = _facets(project, path)
        datasets.append(
            OutputDataset(NAMESPACE, path.as_posix(), facets=facets, outputFacets={"outputStatistics": statistics})
        )
    return datasets


def _inputs(project: Project, job: str) -> list[Path]:
    """Inputs by dvc.yaml, folders split as they are written; without files that only describe others."""
    if job == "run":
        return [project.data]
    paths = [project.root / path for path in project.stage(job).inputs if Path(path).name not in _DESCRIPTIVE_FILES]
    return list(dict.fromkeys(part for path in paths if path.exists() for part in _parts(project, path)))


def _parts(project: Project, path: Path) -> list[Path]:
    """Split the folder of a stage that writes several datasets, so that readers and writers name the same ones."""
    if path not in [project.root / stage.folder for stage in project.stages.values() if STAGES[stage.verb].parted]:
        return [path]
    return sorted(part for part in path.iterdir() if part.is_dir())


def _facets(project: Project, path: Path) -> Facets:
    facets: Facets = {"version": dataset_version_dataset.DatasetVersionDatasetFacet(_version(path, _stamp(path)))}
    if _n_rows(path) is not None:
        facets["schema"] = _schema(read_card(project.data), path)
    if path.parent == project.folder("contaminate") and path.name != "labelled":
        facets["assay_contamination"] = contamination(read_json(path.parent / "plan.json"), path.name)
    return facets


def contamination(plan: dict[str, Any], level: str) -> AssayContaminationDatasetFacet:
    """Return the facet of one level of ``plan.json``: injected rho, and natural rho where it is known."""
    (row,) = (row for row in plan["levels"] if f"level-{row['rho']:g}" == level)
    n_known, n_unknown = row["natural_anomalies_known"], row["natural_rows_unknown"]
    n_natural = row["n_train"] - row["n_injected"]
    return AssayContaminationDatasetFacet(
        injectedRho=row["injected_rho"],
        nInjected=row["n_injected"],
        nTrain=row["n_train"],
        nLabelled=plan["n_labelled"],
        naturalRhoKnown=n_unknown == 0,
        naturalAnomaliesKnown=n_known,
        naturalRowsUnknown=n_unknown,
        source=plan["source"],
        seed=plan["seed"],
        naturalRho=n_known / n_natural if n_unknown == 0 else None,
    )


def _schema(card: Card, path: Path) -> schema_dataset.SchemaDatasetFacet:
    """Fields of rows: one for each feature, or a single one for rows with a shape; then those of rows.csv."""
    shape = card.modality.shape
    number = np.load(path / "features.npy", mmap_mode="r", allow_pickle=False).dtype.name
    if shape is None:
        fields = [Field(name, number, fields=None) for name in card.columns]
    else:
        fields = [Field("features", f"{number}[{shape[0]},{shape[1]}]", description=card.modality.name, fields=None)]
    with (path / "rows.csv").open(encoding="utf-8") as stream:
        row_columns = stream.readline().strip().split(",")
    return schema_dataset.SchemaDatasetFacet(
        fields + [Field(name, _NUMBERS.get(name, "string"), fields=None) for name in row_columns]
    )


def _metrics(project: Project, path: Path) -> Metrics | None:
    """Metrics of rows; per column only for rows without a shape, since an image has one column per pixel."""
    if _n_rows(path) is None:
        return None
    return _measure(path, _stamp(path), read_card(project.data))


@lru_cache(maxsize=64)
def _measure(path: Path, stamp: object, card: Card) -> Metrics:
    features = np.load(path / "features.npy", mmap_mode="r", allow_pickle=False)
    columns = {}
    if len(features) and card.modality.shape is None:
        finite = np.isfinite(features)
        low = features.min(axis=0, where=finite, initial=np.inf)
        high = features.max(axis=0, where=finite, initial=-np.inf)
        total = features.sum(axis=0, where=finite, dtype=np.float64)
        nulls, counts = np.isnan(features).sum(axis=0), finite.sum(axis=0)
        for index, name in enumerate(card.columns):
            ends = (float(low[index]), float(high[index])) if counts[index] else (None, None)
            columns[name] = ColumnMetrics(
                int(nulls[index]), sum=float(total[index]), count=len(features), min=ends[0], max=ends[1]
            )
    size = sum(file.stat().st_size for file in files_of(path))
    return Metrics(columns, rowCount=len(features), bytes=size, fileCount=len(files_of(path)))


def _n_rows(path: Path) -> int | None:
    """Number of rows of a folder that holds rows, None for any other dataset."""
    file = path / "features.npy"
    return len(np.load(file, mmap_mode="r", allow_pickle=False)) if file.is_file() else None


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Sizes and times of a folder's files: the cache key of what was read from it."""
    stats = [(file, file.stat()) for file in files_of(path)]
    return tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats)


@lru_cache(maxsize=256)
def _version(path: Path, stamp: object) -> str:
    """MD5 by which DVC names a file or folder."""
    if path.is_dir():
        return dvc_directory_md5(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
