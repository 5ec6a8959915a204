"""Ingesting datasets into ``data/``, and restoring ``data/`` to the version that data.dvc names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from assay import console
from assay.data.answers import ensure_answers
from assay.data.batches import as_batch, with_vocabulary
from assay.data.card import read_card
from assay.data.columns import AS_THEY_ARE, Treatment
from assay.data.dataset import ANOMALY, NORMAL, UNKNOWN, Dataset, RowSet, read_dataset, write_dataset
from assay.data.dialects import OBSERVED, Dialect
from assay.data.fingerprints import SCHEME
from assay.data.labelling import ensure_labels
from assay.data.quarantine import ensure_quarantine
from assay.data.seen_labels import read_seen_labels, seen_labels_path
from assay.data.target import ensure_target
from assay.data.word_vectors import read_vectors
from assay.errors import DataError, TamperedError, ToolError
from assay.hashing import dvc_directory_md5, dvc_md5, files_in
from assay.parts import canonical_json
from assay.project import versioning
from assay.project.checkouts import bring
from assay.project.layout import Project
from assay.project.merging import set_merge_driver
from assay.project.pending import Change

if TYPE_CHECKING:
    from assay.data.files import SpecialColumns

NO_SERIES: Mapping[str, Any] = dict.fromkeys(("series", "entity", "window", "stride"))
NO_IMAGES: Mapping[str, Any] = dict.fromkeys(("image_size", "colour", "labels", "masks"))
BUNDLED = ("breast_cancer", "digits")


def load_source(
    project: Project,
    source: str,
    *,
    name: str | None = None,
    treatment: Treatment = AS_THEY_ARE,
    normal: str | None = None,
    anomaly: str | None = None,
    text: str | None = None,
    vectors: Path | None = None,
    images: Mapping[str, Any] = NO_IMAGES,
    series: Mapping[str, Any] = NO_SERIES,
    dialect: Dialect = OBSERVED,
    **special: Unpack[SpecialColumns],
) -> Dataset:
    """Load a named public dataset, or a user's CSV or Parquet file, or images.

    Parameters
    ----------
    source : str
        A name that `assay.data.public_sets.dataset_names` lists, or the path of a file, or of a folder of part files
        or of images.
    name : str, optional
        Name to give to the file's dataset; needed for files, not allowed for public sets.
    treatment : Treatment
        What is done with feature columns of the file.
    normal, anomaly : str, optional
        Labels of normal rows and of anomalies, of which there has to be one at least.
    text : str, optional
        The column of documents.
    vectors : Path, optional
        A file of word vectors (`assay.data.word_vectors.read_vectors`).
    images : mapping
        ``image_size`` (height and width), ``colour``, ``labels`` and ``masks``, None where one is not given; see
        `assay.data.image_datasets.read_image_dataset`.
    series : mapping
        ``series`` and ``entity`` (the columns of times and of what tells series apart), ``window`` and ``stride``
        (`assay.data.series_files.read_series`); None where one is not given.
    dialect : Dialect
        How a CSV file is written.
    **special : str or None
        The file's columns that are no features; see `assay.data.files.SpecialColumns`.

    Raises
    ------
    DataError
        No such name or file, or the file cannot be used as it is.
    """
    from assay.data.archives import holds_array
    from assay.data.files import read_table
    from assay.data.image_datasets import holds_images, read_image_dataset
    from assay.data.image_files import IMAGE_ENDINGS
    from assay.data.public_sets import dataset_names, load_named
    from assay.data.series_files import read_series, read_windows, series_columns
    from assay.data.telemetry import holds_telemetry, read_telemetry

    options: dict[str, object] = {"--name": name, "--normal": normal, "--anomaly": anomaly}
    of_series = {f"--{option}": value for option, value in series.items()}
    of_images = {f"--{option.replace('_', '-')}": value for option, value in images.items()}
    of_tables: dict[str, object] = {"--text": text, "--vectors": vectors, **of_series}
    of_tables |= {
        f"--{role.removesuffix('_column')}": str(column) for role, column in special.items() if column is not None
    }
    options |= {**of_images, **of_tables}
    if source in dataset_names():
        if unusable := _given(options, treatment, dialect):
            raise DataError(f"{unusable[0]} is for your own files; {source} is a public dataset and needs no options")
        mirror = os.environ.get("ASSAY_DATA_MIRROR")
        return load_named(source, mirror=Path(mirror) if mirror else None, cache=project.state / "downloads")
    if name is not None and name in dataset_names():
        raise DataError(f"--name {name} is the name of a public dataset; give yours another name")
    if vectors is not None and text is None:
        raise DataError("--vectors are vectors of the words of texts; name the column of texts with --text")
    if special.get("group") is not None and special.get("time") is not None:
        raise DataError("--group and --time cannot both decide the roles of rows; give the one that matters more")
    path = Path(source)
    if not path.exists():
        raise DataError(f"{source!r} is neither a file nor a known dataset; known are {', '.join(dataset_names())}")
    if name is None:
        raise DataError(f"give the dataset of {path.name} a name: assay ingest {source} --name NAME")
    if holds_array(path, "windows"):
        if unusable := _given({**of_tables, **of_images}, treatment, dialect):
            raise DataError(f"{unusable[0]} is not for an archive of windows, as {path.name} is; leave it out")
        return read_windows(path, name=name, normal=normal, anomaly=anomaly)
    if holds_telemetry(path):
        others = {option: value for option, value in of_tables.items() if option not in ("--window", "--stride")}
        others |= {**of_images, "--normal": normal, "--anomaly": anomaly}
        if unusable := _given(others, treatment, dialect):
            raise DataError(f"{unusable[0]} is not for a folder of telemetry, as {path.name} is; leave it out")
        if series["window"] is None:
            raise DataError(f"{path.name} is a folder of telemetry; give the length of its windows: --window STEPS")
        return read_telemetry(path, name=name, window=series["window"], stride=series["stride"])
    if holds_images(path):
        if unusable := _given(of_tables, treatment, dialect):
            raise DataError(f"{unusable[0]} is for tables, and {path.name} holds images; leave it out")
        return read_image_dataset(path, name=name, normal=normal, anomaly=anomaly, **image_options(images))
    if unusable := _given(of_images, AS_THEY_ARE, OBSERVED):
        raise DataError(
            f"{unusable[0]} is for images, and {path.name} holds none (files that end in {', '.join(IMAGE_ENDINGS)}); "
            "convert them, or leave the option out"
        )
    if _given(of_series, AS_THEY_ARE, OBSERVED):
        columns = series_columns(series, text, special)
        dataset = read_series(
            path, columns, name=name, treatment=treatment, normal=normal, anomaly=anomaly, dialect=dialect
        )
    else:
        dataset = read_table(
            path, name=name, treatment=treatment, normal=normal, anomaly=anomaly, text=text, dialect=dialect, **special
        )
    if vectors is not None:
        dataset = with_vectors(dataset, vectors)
    for option, value, kind in (("--normal", normal, NORMAL), ("--anomaly", anomaly, ANOMALY)):
        if value is not None and not (dataset.data.labels == kind).any():
            raise DataError(
                f"no row of {path.name} has the label {value!r}; give {option} a value of {special.get('label')!r}"
            )
    return dataset


def image_options(images: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `assay.data.image_datasets.read_image_dataset` from what a user gave."""
    return {
        **{name: images[name] for name in ("labels", "masks")},
        "size": images["image_size"],
        "colour": bool(images["colour"]),
    }


def _given(options: Mapping[str, object], treatment: Treatment, dialect: Dialect) -> list[str]:
    """Return which options a user gave."""
    given = [option for option, value in options.items() if value is not None]
    given += ["an option for columns"] * (treatment != AS_THEY_ARE)
    return given + ["an option for reading, such as --sep,"] * (dialect != OBSERVED)


def with_vectors(dataset: Dataset, path: Path) -> Dataset:
    """Return a dataset of texts with the vectors of its words from a user's file; those of other words are left out."""
    vectors = read_vectors(path, set(dataset.card.words))
    n_words = len(dataset.card.words)
    console.say(f"{path.name}: vectors of {len(vectors.words)} of {n_words} words; a word without one is ignored")
    return replace(dataset, card=replace(dataset.card, vectors_source=path.name), vectors=vectors)


def ingest(project: Project, dataset: Dataset) -> Path:
    """Write a dataset to ``data/<name>/``; learn its expectation suite if it has none.

    Its rows become one batch. A dataset that is brought in again keeps the scheme of the fingerprints by which its rows
    have their roles. Call it under the project's lock.

    Returns
    -------
    Path
        The dataset's folder.
    """
    from assay.data.expectations import learn_suite

    restore(project)
    dataset = as_batch(without_seen_labels(project, dataset))
    name = dataset.card.name
    if (project.root / "data" / name / "card.json").is_file():
        former = read_card(project.root / "data" / name)
        # Scheme 1 would tell neither texts apart nor dates.
        scheme = SCHEME if dataset.card.vocabulary or dataset.card.dates else former.scheme
        dataset = with_vocabulary(replace(dataset, card=replace(dataset.card, scheme=scheme)), former.vocabulary)
    suite = project.root / "expectations" / f"{name}.json"
    learned = None if suite.is_file() else learn_suite(dataset)
    return replace_dataset(project, dataset, learned=learned, source=dataset.card.source)


def without_seen_labels(project: Project, dataset: Dataset) -> Dataset:
    """Return a dataset in which rows that were labelled after their score was seen are unknown, by their ids.

    Raises
    ------
    DataError
        The file of these labels cannot be read.
    """
    path = seen_labels_path(project.root, dataset.card.name)
    rows = dataset.data.rows
    seen = rows["row_id"].isin(list(read_seen_labels(path))) & (rows["label"] != UNKNOWN)
    if not seen.any():
        return dataset
    console.say(
        f"{int(seen.sum())} rows come in as unknown: they were labelled after their scores had been seen "
        f"({path.relative_to(project.root)}), and such labels neither calibrate, select nor test"
    )
    labels = rows["label"].where(~seen, UNKNOWN).astype("int8")
    return replace(dataset, data=RowSet(dataset.data.features, rows.assign(label=labels)))


def relearn_suite(project: Project, name: str) -> int:
    """Learn the expectation suite of a dataset from the rows that it has now, in place of the one that it had.

    Call it under the project's lock.

    Returns
    -------
    int
        The number of rows.

    Raises
    ------
    DataError
        There is no such dataset, or it has no rows.
    """
    from assay.data.expectations import learn_suite

    restore(project)
    dataset = read_dataset(project.root / "data" / name)
    rows = len(dataset.data)
    with Change(project.root) as change:
        learned = canonical_json(learn_suite(dataset)).encode()
        change.write(project.root / "expectations" / f"{name}.json", learned)
        change.commit("suite-learned", {"dataset": name, "rows": rows})
    return rows


def replace_dataset(
    project: Project, dataset: Dataset, *, learned: dict[str, Any] | None = None, **brought: str
) -> Path:
    """Write a dataset to ``data/<name>/`` in place of its former version, if any, and track it with DVC.

    The other datasets are first checked against data.dvc, so that tracking the new one does not also track changes
    to them. Call it under the project's lock, after `restore`.

    Parameters
    ----------
    learned : dict, optional
        A new expectation suite of the dataset.
    **brought
        What the version brings, for the event log.

    Returns
    -------
    Path
        The dataset's folder.
    """
    name, data = dataset.card.name, project.root / "data"
    with Change(project.root) as change:
        staging = change.folder(project.root, "data")
        write_dataset(staging / name, dataset)
        other_files = {path: file for path, file in files_in(data).items() if path.partition("/")[0] != name}
        tracked = dvc_md5({**other_files, **files_in(staging)})
        if learned is not None:
            suite = project.root / "expectations" / f"{name}.json"
            change.write(suite, canonical_json(learned).encode())
        data.mkdir(exist_ok=True)
        change.place(staging / name, data / name)
        started = {"dataset": name, "tracked": tracked, "rows": len(dataset.data), **brought}
        ended = {**started, "data_version": dvc_directory_md5(staging / name)}
        change.commit("ingest-started", started, tracked=(data, tracked), closing=("ingested", ended))
    _ensure_inputs(project.root, name)
    return data / name


def restore(project: Project) -> None:
    """Restore ``data/`` to the version that data.dvc names: from the DVC cache, a remote, or the bundled sets.

    Datasets without a file of quarantined rows, of answers, of labels or of target rows get an empty one.

    Raises
    ------
    TamperedError
        ``data/`` differs from data.dvc, or data.dvc was changed by neither `ingest` nor a Git commit.
    DataError
        ``data/`` is missing, and so is every source to restore it from.
    """
    set_merge_driver(project.root)
    _bring_back(project)
    for card in sorted((project.root / "data").glob("*/card.json")):
        try:
            _ensure_inputs(project.root, card.parent.name)
        except OSError as error:  # which the commands about this dataset meet again
            console.say(f"{card.parent.name}: {error}")


def _ensure_inputs(root: Path, name: str) -> None:
    """Create the files that people fill in for a dataset, empty, where they are missing."""
    ensure_quarantine(root, name)
    ensure_labels(root, name)
    ensure_answers(root, name)
    ensure_target(root, name)


def _bring_back(project: Project) -> None:
    tracked = versioning.tracked_version(project.root)
    data = project.root / "data"
    if data.exists() and any(data.iterdir()):
        if tracked is not None:
            _check(project, data)
        return
    if tracked is None or not (problem := _check_out(project)):
        return
    with Change(project.root) as change:
        staging = change.folder(project.root, "data")
        for name in BUNDLED:
            write_dataset(staging / name, as_batch(load_source(project, name)))
        if dvc_directory_md5(staging) != tracked:
            advice = f"{versioning.ADD_REMOTE} `dvc pull data.dvc`"
            if versioning.has_remote(project.root):
                advice = f"the DVC remote did not give them, `dvc push` where they were ingested: {problem}"
            raise DataError(f"data/ is missing, and data.dvc names other data than the bundled sets; {advice}")
        change.place(staging, data)
        change.commit(tracked=(data, tracked), closing=("restored", {"tracked": tracked}))


def require_known_data(project: Project) -> None:
    """Raise `TamperedError` if data.dvc names data that were neither ingested here nor committed to Git.

    ``dvc repro`` tracks changed files by itself, before any stage could refuse them.
    """
    tracked = versioning.tracked_version(project.root)
    if (
        tracked is not None
        and not _is_logged(project, tracked)
        and tracked != versioning.committed_version(project.root)
    ):
        raise TamperedError(
            "data.dvc names data that were neither brought in by `assay ingest` nor committed to Git, so files in "
            "data/ were changed and `dvc` tracked them; restore both with `git checkout data.dvc` and "
            "`dvc checkout --force data.dvc`, or commit data.dvc if the change is yours"
        )


def _is_logged(project: Project, version: str) -> bool:
    """Return whether a version of ``data/`` was ingested or restored here."""
    brought = (event for event in reversed(project.events) if event["event"] in ("ingested", "restored"))
    return any(event["tracked"] == version for event in brought)


def _check(project: Project, data: Path) -> None:
    """Check ``data/`` against data.dvc.

    Data of another version on record, as after `git pull` or `git checkout`, are replaced by those that data.dvc names.
    """
    try:
        versioning.require_clean_data(project.root)
    except TamperedError:
        present = dvc_directory_md5(data)
        if not _is_logged(project, present) and present not in versioning.committed_versions(project.root):
            raise
        if problem := _check_out(project):
            raise DataError(
                "data/ holds another version than data.dvc names, which is in neither DVC's cache nor its remote; "
                f"`dvc push` where it was ingested, then `dvc pull data.dvc` ({problem})"
            ) from None
    require_known_data(project)


def _check_out(project: Project) -> str:
    """Pull ``data/`` from the remote, or check it out from the DVC cache; return why that did not work, or ""."""
    try:
        bring(project.root, [versioning.DATA])
    except ToolError as error:
        return str(error)
    return ""
