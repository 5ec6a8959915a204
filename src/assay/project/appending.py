"""Batches of a dataset in a project: added after validation, parked where that fails, dropped, and listed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay import console
from assay.data.batches import with_batch, without_batch
from assay.data.card import Arrival, read_card
from assay.data.dataset import Dataset, read_dataset
from assay.data.dialects import OBSERVED, Dialect
from assay.errors import DataError, ValidationFailedError
from assay.hashing import dvc_directory_md5
from assay.parts import write_json
from assay.project.ingest import NO_IMAGES, image_options, replace_dataset, restore, without_seen_labels
from assay.project.layout import Project

PARKED = "parked"
COLUMN_OPTIONS = {
    "label": "label_column",
    "id_column": "id_column",
    "group": "group_column",
    "time": "time_column",
    "category": "category_column",
    "normal": "normal_label",
    "anomaly": "anomaly_label",
    "text": "text_column",
}


def append(
    project: Project,
    path: Path,
    *,
    name: str | None,
    batch: str | None = None,
    dialect: Dialect = OBSERVED,
    images: Mapping[str, Any] = NO_IMAGES,
    **columns: str | None,
) -> tuple[Path, Arrival]:
    """Add the rows of a file to a dataset as one batch, after validation; call it under the project's lock.

    Parameters
    ----------
    path : Path
        A CSV or Parquet file; for a dataset of series one of steps, or an archive of windows; or images.
    name : str
        The dataset.
    batch : str, optional
        Id of the batch; by default that of its content.
    dialect : Dialect
        How a CSV file is written.
    images : mapping
        See `assay.project.ingest.load_source`; size and colour are those of the dataset.
    **columns
        Names of the file's columns and labels, as in `assay.project.ingest.load_source`; by default those of the
        dataset's card.

    Returns
    -------
    Path
        The dataset's folder.
    Arrival
        The batch.

    Raises
    ------
    DataError
        There is no such dataset, the file cannot be used, or the batch was seen before.
    ValidationFailedError
        The batch does not meet the dataset's expectations. It is parked with the report in
        ``.assay/parked/<dataset>/<batch>``; the data are as before.
    """
    from assay.data.archives import holds_array
    from assay.data.expectations import load_suite
    from assay.data.image_datasets import holds_images
    from assay.data.validation import raise_if_failed, validate_batch, warning_lines

    restore(project)
    if name is None:
        raise DataError(f"give the name of the dataset that {path.name} is added to: --name NAME")
    accepted = read_dataset(_folder(project, name))
    is_image = accepted.card.modality.name == "image"
    if is_image != holds_images(path) and not holds_array(path, "windows"):
        both = (name, path.name) if is_image else (path.name, name)
        raise DataError(f"{both[0]} holds images, and {both[1]} none; give rows like those of the dataset")
    arriving = _arriving(path, accepted, dialect, columns, images)
    grown = with_batch(accepted, without_seen_labels(project, arriving), batch)
    arrival = grown.card.batches[-1]
    parked = project.state / PARKED / name / arrival.batch
    shutil.rmtree(parked, ignore_errors=True)
    suite = load_suite(project.root / "expectations" / f"{name}.json")
    summary = validate_batch(suite, accepted, grown, docs=parked / "docs")
    try:
        raise_if_failed(summary)
    except ValidationFailedError as error:
        _park(path, parked / path.resolve().name)
        write_json(parked / "report.json", summary.to_json())
        where = parked.relative_to(project.root)
        project.events.append("batch-rejected", dataset=name, batch=arrival.batch, source=path.name, parked=str(where))
        raise ValidationFailedError(
            f"{error}. Batch {arrival.batch} was not added: it is in {where}, with the report; data/ is as before"
        ) from error
    for line in warning_lines(summary):
        console.say(line)
    shutil.rmtree(parked)
    return replace_dataset(project, grown, added=arrival.batch), arrival


def _park(path: Path, target: Path) -> None:
    """Copy what was to join a dataset: of a folder what is read of one, no hidden files and no links to folders."""
    if not path.is_dir():
        shutil.copyfile(path, target)
        return

    def unread(place: str, names: list[str]) -> list[str]:
        of_file = [Path(place, name) for name in names]
        return [f.name for f in of_file if f.name.startswith(".") or (f.is_symlink() and not f.is_file())]

    shutil.copytree(path, target, ignore=unread)


def _arriving(
    path: Path,
    accepted: Dataset,
    dialect: Dialect,
    columns: Mapping[str, str | None],
    images: Mapping[str, Any],
) -> Dataset:
    """Read the rows that join a dataset: images, of a table, windows of a file of steps, or those of an archive."""
    from assay.data.archives import holds_array
    from assay.data.files import read_table
    from assay.data.image_datasets import read_image_dataset
    from assay.data.series_files import read_windows
    from assay.data.series_growth import read_more_steps

    card = accepted.card
    given: dict[str, Any] = {
        option: columns.get(option) or getattr(card, field) for option, field in COLUMN_OPTIONS.items()
    }
    if card.modality.name == "image":
        kinds = {kind: given.pop(kind) for kind in ("normal", "anomaly")}
        if unusable := [option for option in given if columns.get(option) is not None]:
            raise DataError(f"--{unusable[0].removesuffix('_column')} is for tables, and {path.name} holds images")
        return read_image_dataset(path, name=card.name, like=card, **kinds, **image_options(images))
    is_archive = holds_array(path, "windows")
    if not is_archive and card.windows is None:
        return read_table(path, name=card.name, like=card, dialect=dialect, **given)
    if is_archive and card.windows is not None:
        raise DataError(f"{card.name} has windows of a file of steps; append a file of steps, not {path.name}")
    usable = {
        option: given.pop(option) for option in ("normal", "anomaly", *([] if is_archive else ["label", "group"]))
    }
    if unusable := [option.removesuffix("_column") for option, value in given.items() if value is not None]:
        raise DataError(f"--{unusable[0]} is not for windows of series, which {card.name} holds; leave it out")
    if not is_archive:
        return read_more_steps(path, accepted, dialect=dialect, **usable)
    return read_windows(path, name=card.name, **usable)


def drop(project: Project, batch: str, *, name: str) -> Arrival:
    """Remove the rows of a batch from a dataset; call it under the project's lock.

    Raises
    ------
    DataError
        There is no such dataset or batch, or the batch is the only one.
    """
    restore(project)
    rest = without_batch(read_dataset(_folder(project, name)), batch)
    replace_dataset(project, rest, dropped=batch)
    return next(arrival for arrival in rest.card.batches if arrival.batch == batch)


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a dataset.

    Attributes
    ----------
    data_version : str
        DVC's hash of its folder.
    time : str or None
        When it was ingested (UTC); None where another machine did that.
    rows : int or None
        Number of its rows; None for versions that were ingested before this was kept.
    change : str
        What came with it.
    current : bool
        Whether ``data/`` holds it now.
    """

    data_version: str
    time: str | None
    rows: int | None
    change: str
    current: bool


def data_versions(project: Project, name: str) -> tuple[list[Version], tuple[Arrival, ...]]:
    """Return the versions of a dataset that were ingested here or are here now, oldest first, and its batches now."""
    folder = _folder(project, name)
    present = dvc_directory_md5(folder)
    events = [event for event in project.events if event["event"] == "ingested" and event["dataset"] == name]
    newest = max((number for number, event in enumerate(events) if event["data_version"] == present), default=None)
    found = [
        Version(event["data_version"], event["time"], event.get("rows"), _change(event, number), number == newest)
        for number, event in enumerate(events)
    ]
    batches = read_card(folder).batches
    if newest is None:
        rows = sum(arrival.rows for arrival in batches if not arrival.dropped) or None
        found.append(Version(present, None, rows, "ingested elsewhere", True))
    return found, batches


def _change(event: dict[str, Any], number: int) -> str:
    for verb in ("added", "dropped"):
        if verb in event:
            return f"{verb} batch {event[verb]}"
    if "source" not in event:
        return "ingested"
    return f"{'replaced by' if number else 'ingested from'} {event['source']}"


def _folder(project: Project, name: str) -> Path:
    folder = project.root / "data" / name
    if not (folder / "card.json").is_file():
        names = sorted(card.parent.name for card in (project.root / "data").glob("*/card.json"))
        raise DataError(f"there is no dataset {name!r}; there are {', '.join(names) or 'none'}")
    return folder
