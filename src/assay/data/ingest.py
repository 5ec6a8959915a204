"""Bringing datasets into ``data/``, and ``data/`` back to what data.dvc names."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from assay import versioning
from assay.data.dataset import Dataset, write_dataset
from assay.errors import DataError, ToolError
from assay.lineage.records import dvc_directory_md5
from assay.parts import write_json
from assay.project import Project

BUNDLED = ("breast_cancer", "digits")


def load_source(
    project: Project,
    source: str,
    *,
    name: str | None = None,
    label: str | None = None,
    id_column: str | None = None,
    group: str | None = None,
    time: str | None = None,
) -> Dataset:
    """Load a named public dataset, or a user's CSV or Parquet file.

    Parameters
    ----------
    source : str
        A name that `assay.data.registry.dataset_names` lists, or the path of a file.
    name : str, optional
        Name to give to the file's dataset; needed for files, not allowed for public sets.
    label, id_column, group, time : str, optional
        Columns of the file that hold these.

    Raises
    ------
    DataError
        No such name or file, or the file cannot be used as it is.
    """
    from assay.data.files import read_table
    from assay.data.registry import dataset_names, load_named

    options = {"--name": name, "--label": label, "--id": id_column, "--group": group, "--time": time}
    if source in dataset_names():
        if given := [option for option, value in options.items() if value is not None]:
            raise DataError(f"{given[0]} is for files of your own; {source} is a public dataset and needs no options")
        mirror = os.environ.get("ASSAY_DATA_MIRROR")
        return load_named(source, mirror=Path(mirror) if mirror else None, cache=project.state / "downloads")
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{source!r} is neither a file nor a known dataset; known are {', '.join(dataset_names())}")
    if name is None:
        raise DataError(f"give the dataset of {path.name} a name: assay ingest {source} --name NAME")
    return read_table(path, name=name, label=label, id_column=id_column, group=group, time=time)


def ingest(project: Project, dataset: Dataset) -> Path:
    """Put a dataset into ``data/<name>/`` and track it; learn its suite if it has none yet.

    The datasets that are there already must be what data.dvc names, so that tracking the new one blesses
    nothing else. Call it under the project's lock.

    Returns
    -------
    Path
        The dataset's folder.
    """
    from assay.data.expectations import learn_suite

    restore(project)
    folder = project.root / "data" / dataset.card.name
    _place(dataset, folder)
    suite = project.root / "expectations" / f"{dataset.card.name}.json"
    if not suite.is_file():
        write_json(suite, learn_suite(dataset))
    versioning.track_data(project.root)
    project.events.append("ingested", dataset=dataset.card.name, data_version=dvc_directory_md5(folder))
    return folder


def restore(project: Project) -> None:
    """Make ``data/`` what data.dvc names: from the DVC cache, a remote, or the bundled sets.

    Raises
    ------
    TamperedError
        ``data/`` is there and differs.
    DataError
        ``data/`` is not there and nothing that it could come from is.
    """
    tracked = versioning.tracked_version(project.root)
    data = project.root / "data"
    if data.exists() and any(data.iterdir()):
        if tracked is not None:
            versioning.require_clean_data(project.root)
        return
    if tracked is None or _checked_out(project):
        return
    _sweep(data)
    staging = Path(tempfile.mkdtemp(dir=project.root, prefix=".data."))
    try:
        staging.chmod(0o755)
        for name in BUNDLED:
            write_dataset(staging / name, load_source(project, name))
        if dvc_directory_md5(staging) != tracked:
            raise DataError(
                "data/ is missing, and data.dvc names other data than the bundled sets; "
                "add the DVC remote that holds it (`dvc remote add -d NAME ADDRESS`) and run `dvc pull data.dvc`"
            )
        if data.exists():
            data.rmdir()
        staging.rename(data)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    versioning.track_data(project.root)


def _checked_out(project: Project) -> bool:
    """Try the DVC cache, then the remote; tell whether ``data/`` came back."""
    command = ("pull",) if versioning.has_remote(project.root) else ("checkout",)
    try:
        versioning.dvc(project.root, *command, versioning.DATA)
    except ToolError:
        return False
    return True


def _place(dataset: Dataset, folder: Path) -> None:
    folder.parent.mkdir(exist_ok=True)
    _sweep(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent.parent, prefix=f".{folder.name}.") as temporary:
        incoming, outgoing = Path(temporary) / "new", Path(temporary) / "old"
        write_dataset(incoming, dataset)
        if folder.exists():
            folder.rename(outgoing)
        incoming.rename(folder)


def _sweep(folder: Path) -> None:
    for left in folder.parent.glob(f".{folder.name}.*"):
        if left.is_dir():
            shutil.rmtree(left)
