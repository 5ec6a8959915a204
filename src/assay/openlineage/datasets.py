"""The datasets of OpenLineage events as JSON: names, versions, schemas, metrics and contamination."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from assay import __version__
from assay.data.card import Card, read_card
from assay.data.mapped import row_blocks
from assay.data.npy import read_npy
from assay.hashing import dvc_directory_md5, files_of
from assay.openlineage.naming import INGEST, PROMOTE, RUN, namespace_of
from assay.parts import read_json
from assay.project.deployment import deployment_path, read_deployment
from assay.project.layout import Project
from assay.project.scorers import kept_folder
from assay.project.stages import STAGES

_SOURCES = "file"  # namespace of the files that were brought in
_NUMBERS = {"label": "int8", "contradicted": "int8", "seen": "int8", "copy": "int64"}
_DESCRIPTIVE_FILES = ("card.json", "split.json", "plan.json", "record.json")
SCHEMA_ID = "urn:uuid:523d8656-4099-4a17-9703-f8186d4c1bab"

# The package knows no public address of Assay, so the producer is a package URL.
PRODUCER = f"pkg:generic/assay@{__version__}"
SPECIFICATION = "https://openlineage.io/spec"

Json = dict[str, Any]
Checks = Mapping[str, Sequence[Json]]


def facet(schema: str, /, **fields: Any) -> Json:
    """Return a facet, by the address of its definition, with those of its fields that are not None."""
    return {"_producer": PRODUCER, "_schemaURL": schema, **_present(**fields)}


def standard_facet(version: str, name: str, /, **fields: Any) -> Json:
    """Return a facet of the OpenLineage specification, in one of its versions."""
    return facet(f"{SPECIFICATION}/facets/{version}/{name}.json#/$defs/{name}", **fields)


def _present(**fields: Any) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


def input_datasets(project: Project, job: str, checks: Checks | None = None) -> list[Json]:
    """Return what a job, a stage or another one, reads, as far as it exists; `checks` are those of a validation."""
    if job == INGEST:
        batches = read_card(project.data).batches
        sources = [batches[-1].source if batches else read_card(project.data).source]
        return [{"namespace": _SOURCES, "name": Path(name).name, "facets": {}} for name in sources]
    datasets = []
    for path in _inputs(project, job):
        metrics, assertions = _metrics(project, path), _assertions(project, path, checks or {})
        facets = _present(dataQualityMetrics=metrics, dataQualityAssertions=assertions)
        datasets.append(_dataset(project, path, inputFacets=facets))
    return datasets


def _assertions(project: Project, path: Path, checks: Checks) -> Json | None:
    """Return the facet of what a validation asked of a dataset: the source (and roles of its rows), or a level."""
    of_source = [batch for batch in checks if not batch.startswith("level-")]
    batches = of_source if path == project.data else [path.name] if path.parent.name == "contaminate" else []
    assertions = [
        _present(
            assertion=check["expectation"],
            success=check["success"],
            column=check["column"],
            severity="warn" if check.get("warns") else "error",
            name=f"{batch}: {check['expectation']}",
            expected=check["expected"] or None,
            actual=check["observed"],
        )
        for batch in batches
        for check in checks.get(batch, ())
    ]
    version = "1-1-0"
    return standard_facet(version, "DataQualityAssertionsDatasetFacet", assertions=assertions) if assertions else None


def output_datasets(project: Project, job: str) -> list[Json]:
    """Return what a job, a stage or another one, has written."""
    if job == INGEST:
        return [_dataset(project, project.data)]
    if job == PROMOTE:
        deployed = read_deployment(project.root, project.dataset)
        assert deployed is not None
        why = standard_facet("1-1-0", "DocumentationDatasetFacet", description=deployed.reason)
        record = _dataset(project, deployment_path(project.root, project.dataset))
        record["facets"]["documentation"] = why
        return [_dataset(project, kept_folder(project.root, project.dataset, deployed.version)), record]
    datasets = []
    for path in _parts(project, project.root / project.stage("package" if job == RUN else job).folder):
        size = sum(file.stat().st_size for file in files_of(path))
        counts = {"rowCount": _n_rows(path), "size": size, "fileCount": len(files_of(path))}
        statistics = standard_facet("1-0-2", "OutputStatisticsOutputDatasetFacet", **counts)
        datasets.append(_dataset(project, path, outputFacets={"outputStatistics": statistics}))
    return datasets


def _dataset(project: Project, path: Path, **facets: Json) -> Json:
    name, namespace = path.relative_to(project.root).as_posix(), namespace_of(project.root)
    return {"namespace": namespace, "name": name, "facets": _facets(project, path), **facets}


def _inputs(project: Project, job: str) -> list[Path]:
    """Inputs by dvc.yaml, folders split as they are written; without files that only describe others."""
    if job == RUN:
        return [project.data]
    if job == PROMOTE:
        packaged = project.folder("package")
        deployed = read_deployment(project.root, project.dataset)
        return [packaged] if deployed is not None and (packaged / deployed.version).is_dir() else []
    paths = [project.root / path for path in project.stage(job).inputs if Path(path).name not in _DESCRIPTIVE_FILES]
    return list(dict.fromkeys(part for path in paths if path.exists() for part in _parts(project, path)))


def _parts(project: Project, path: Path) -> list[Path]:
    """Split the folder of a stage that writes several datasets, so that readers and writers name the same ones."""
    if path not in [project.root / stage.folder for stage in project.stages.values() if STAGES[stage.verb].parted]:
        return [path]
    return sorted(part for part in path.iterdir() if part.is_dir())


def _facets(project: Project, path: Path) -> Json:
    version = _version(path, _stamp(path))
    facets = {"version": standard_facet("1-0-1", "DatasetVersionDatasetFacet", datasetVersion=version)}
    if _n_rows(path) is not None:
        facets["schema"] = _schema(read_card(project.data), path)
    if path.parent == project.folder("contaminate") and path.name != "labelled":
        facets["assay_contamination"] = contamination(read_json(path.parent / "plan.json"), path.name)
    return facets


def contamination(plan: Json, level: str) -> Json:
    """Return the facet of one level of ``plan.json``: injected rho, and natural rho where it is known.

    contamination_facet.json, in this package, describes the fields. The schema has no public address; its URN never
    changes, as OpenLineage requires of a schema version.
    """
    (row,) = (row for row in plan["levels"] if f"level-{row['rho']:g}" == level)
    n_known, n_unknown = row["natural_anomalies_known"], row["natural_rows_unknown"]
    n_natural = row["n_train"] - row["n_injected"]
    return facet(
        f"{SCHEMA_ID}#/$defs/AssayContaminationDatasetFacet",
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


def _schema(card: Card, path: Path) -> Json:
    """Fields of rows: one for each feature, or a single one for rows with a shape and texts; then those of rows.csv."""
    shape = card.modality.shape
    number = np.load(path / "features.npy", mmap_mode="r", allow_pickle=False).dtype.name
    if card.modality.padded:
        fields = [{"name": name, "type": "string", "description": "codes of words"} for name in card.input_columns]
    elif shape is None:
        fields = [{"name": name, "type": number} for name in card.columns]
    else:
        size = f"{number}[{','.join(map(str, shape))}]"
        fields = [{"name": "features", "type": size, "description": card.modality.name}]
    with (path / "rows.csv").open(encoding="utf-8") as stream:
        row_columns = stream.readline().strip().split(",")
    fields += [{"name": name, "type": _NUMBERS.get(name, "string")} for name in row_columns]
    return standard_facet("1-2-0", "SchemaDatasetFacet", fields=fields)


def _metrics(project: Project, path: Path) -> Json | None:
    """Metrics of rows; per column only for plain rows, since an image has one column per pixel, a text one per word."""
    if _n_rows(path) is None:
        return None
    return _measure(path, _stamp(path), read_card(project.data))


@lru_cache(maxsize=64)
def _measure(path: Path, stamp: object, card: Card) -> Json:
    features = read_npy(path / "features.npy")
    columns = {}
    if len(features) and card.modality.shape is None and not card.modality.padded:
        low, high = np.full(features.shape[1], np.inf), np.full(features.shape[1], -np.inf)
        total, nulls, counts = np.zeros((3, features.shape[1]))
        for block in row_blocks(features):
            part, finite = features[block], np.isfinite(features[block])
            low = np.minimum(low, part.min(axis=0, where=finite, initial=np.inf))
            high = np.maximum(high, part.max(axis=0, where=finite, initial=-np.inf))
            total += part.sum(axis=0, where=finite)
            nulls += np.isnan(part).sum(axis=0)
            counts += finite.sum(axis=0)
        for index, name in enumerate(card.columns):
            ends = (float(low[index]), float(high[index])) if counts[index] else (None, None)
            numbers = {"nullCount": int(nulls[index]), "count": len(features), "sum": float(total[index])}
            columns[name] = _present(**numbers, min=ends[0], max=ends[1])
    size = sum(file.stat().st_size for file in files_of(path))
    sizes = {"rowCount": len(features), "bytes": size, "fileCount": len(files_of(path))}
    return standard_facet("1-0-3", "DataQualityMetricsInputDatasetFacet", **sizes, columnMetrics=columns)


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
