"""Which rows every run used, and for what: one immutable file for each split, contamination and set of target rows.

``work/<name>`` is overwritten by the next run; these files stay. The name of a file is its SHA-256, so that a change
shows; an event names it too, so that a loss shows.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assay.arrays import Texts
from assay.data.card import read_card
from assay.data.dataset import ROWS_IN_PIECE, read_row_table
from assay.data.target import read_target, target_path
from assay.errors import DataError, LedgerError, TamperedError
from assay.eventlog import EventLog
from assay.hashing import RECORD, dvc_directory_md5, hash_bytes, hash_file, hash_paths
from assay.parts import parse_json, write_bytes
from assay.pipeline.rows import LABELLED
from assay.project.freshness import require_record

ROWS_SCHEMA = 2
USES = (
    "train",
    "labelled",
    "adapt",
    "calibration",
    "target",
    "selection",
    "gate",
    "test",
    "injected",
    "pool",
    "excluded",
)
INJECTED, TARGET = "injected", "target"
FIRST = ("split", "contaminate")
TARGETS = "targets"
_META = b"assay"


def rows_folder(root: Path) -> Path:
    """Return the folder of the kept rows of a project's runs."""
    return root / ".assay" / "rows"


def keep_rows(root: Path, events: EventLog, name: str) -> str | None:
    """Keep the roles of the rows that ``work/<name>`` holds now, and the target rows; call it under the project's lock.

    Every later stage event of the dataset, until the next ``rows`` event, used these rows. Nothing is written where
    the newest ``rows`` event already names them.

    Returns
    -------
    str or None
        SHA-256 of the file; None where there is no finished split and contamination.

    Raises
    ------
    TamperedError
        A ``rows.csv`` is not the one that the stage recorded.
    """
    work = root / "work" / name
    key = key_in_work(root, name)
    if key is None:
        return None
    matching = (event for event in reversed(events) if event["event"] == "rows" and key_of(event) == key_of(key))
    kept = next((each for each in matching if (rows_folder(root) / f"{each['rows']}.parquet").is_file()), None)
    if kept is not None and kept == events.last("rows", dataset=name):
        return str(kept["rows"])
    if kept is not None:
        digest, metadata = str(kept["rows"]), {key: kept[key] for key in ("data_version", "counts")}
    else:
        card = root / "data" / name / "card.json"
        columns = list(read_card(card.parent).columns) if card.is_file() else []
        target_rows = pd.DataFrame({"fingerprint": target_fingerprints(root, name)}, dtype="str")
        frame = pd.concat([_read_roles(work), target_rows.assign(use=TARGET, rho=0.0)], ignore_index=True)
        metadata = {"data_version": _data_version(root, name), "counts": _counts(frame)}
        content = pack(frame, {**key, "data_version": metadata["data_version"], "columns": columns})
        digest = hash_bytes(content)
        write_bytes(rows_folder(root) / f"{digest}.parquet", content)
    events.append("rows", rows=digest, **key, **metadata)
    return digest


def key_in_work(root: Path, name: str) -> dict[str, str] | None:
    """Return what determines the uses of rows: the records of the split and the contamination, and the target rows.

    Returns
    -------
    dict or None
        ``dataset``; SHA-256 of the records in ``work/<name>`` as ``split`` and ``contaminate``, and that of the file
        of target rows as ``targets``, if there are any. None where these stages have not both finished.
    """
    records = {stage: root / "work" / name / stage / RECORD for stage in FIRST}
    if not all(path.is_file() for path in records.values()):
        return None
    targets = target_path(root, name)
    target_file = {TARGETS: targets} if targets.is_file() and targets.read_bytes().strip() else {}
    return {"dataset": name, **{part: hash_file(path) for part, path in {**records, **target_file}.items()}}


def key_of(metadata: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Return the key of an event or a file of rows as a tuple, for comparison with `key_in_work`."""
    return tuple(metadata.get(part) for part in ("dataset", *FIRST, TARGETS))


def target_fingerprints(root: Path, name: str) -> Texts:
    """Return the contents of a dataset's target rows, shape (n,); empty for a file that calibration will refuse."""
    try:
        card = read_card(root / "data" / name)
        rows = read_target(target_path(root, name), card)
        return replace(card, vocabulary=rows.vocabulary).fingerprints(rows.rows).astype(object)
    except DataError:
        return np.empty(0, dtype=object)


def pack(frame: pd.DataFrame, metadata: dict[str, Any]) -> bytes:
    """Return rows and their uses as Parquet.

    Parameters
    ----------
    frame : DataFrame
        ``fingerprint`` (hex), ``copy`` (int, or missing where it is not known), ``row_id`` (str or None), ``use``
        (str), ``rho`` (float; the lowest level that injects the row, 0 for rows that are not injected).
    about : dict
        The file's metadata: ``dataset``, ``columns``, ``data_version`` and so on.
    """
    import pyarrow as pa
    from pyarrow import parquet

    no_copies = pa.nulls(len(frame), pa.int64())
    table = pa.table(
        {
            "fingerprint": as_uuids(frame["fingerprint"]),
            "copy": pa.array(frame["copy"], pa.int64(), from_pandas=True) if "copy" in frame else no_copies,
            "row_id": pa.array(frame["row_id"], pa.string(), from_pandas=True),
            "use": pa.array(frame["use"], pa.string()).dictionary_encode(),
            "rho": pa.array(frame["rho"], pa.float64()),
        }
    )
    head = {_META: json.dumps({"schema": ROWS_SCHEMA, **metadata}, sort_keys=True).encode()}
    buffer = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(head), buffer, compression="zstd", use_dictionary=["use", "rho"])
    return buffer.getvalue()


def about_rows(path: Path) -> dict[str, Any] | None:
    """Return the metadata of a file that `pack` wrote, None for any other file.

    Raises
    ------
    LedgerError
        It was written by a newer version of Assay.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    try:
        metadata: dict[str, Any] = parse_json(read_schema(path).metadata[_META])
        schema = metadata["schema"]
    except (ArrowException, OSError, KeyError, TypeError, ValueError):
        return None
    require_schema(path, schema, ROWS_SCHEMA)
    return metadata


def require_schema(path: Path, schema: object, supported: int) -> None:
    """Raise `LedgerError` for a schema number above the one that this version writes."""
    if isinstance(schema, int) and schema > supported:
        raise LedgerError(
            f"{path} has schema {schema}, and this Assay supports {supported}; a newer version wrote it: "
            "install that one. Nothing was changed"
        )


def as_uuids(fingerprints: Iterable[str]) -> Any:
    """Return fingerprints in hex as an Arrow array of 128-bit UUIDs, which DuckDB compares as numbers."""
    import pyarrow as pa

    texts = iter(fingerprints)
    raw = b"".join(bytes.fromhex("".join(piece)) for piece in iter(lambda: list(islice(texts, ROWS_IN_PIECE)), []))
    storage = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(raw) // 16, [None, pa.py_buffer(raw)])
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


def _read_roles(work: Path) -> pd.DataFrame:
    """Collect the rows of every role, and the injected rows, each with the lowest level that injects it."""
    recorded = {stage: require_record(work / stage).outputs for stage in FIRST}
    parts = [
        _read(work, "split", path, recorded).assign(use=path.parent.name, rho=0.0)
        for path in sorted((work / "split").glob("*/rows.csv"))
    ]
    labelled = work / "contaminate" / LABELLED / "rows.csv"
    if labelled.is_file():
        parts.append(_read(work, "contaminate", labelled, recorded).assign(use=LABELLED, rho=0.0))
    levels = {float(p.parent.name.removeprefix("level-")): p for p in (work / "contaminate").glob("level-*/rows.csv")}
    injected = [
        _read(work, "contaminate", path, recorded).assign(use=INJECTED, rho=rho) for rho, path in sorted(levels.items())
    ]
    if injected:
        parts.append(pd.concat(injected).drop_duplicates(["row_id", "fingerprint"]))
    return pd.concat(parts, ignore_index=True)


def _read(work: Path, stage: str, path: Path, recorded: dict[str, dict[str, str]]) -> pd.DataFrame:
    if hash_file(path) != recorded[stage].get(path.relative_to(work / stage).as_posix()):
        raise TamperedError(
            f"{path} was changed since it was recorded; find out why, then remove {work / stage} to compute it again"
        )
    return read_row_table(path.parent, ["row_id", "fingerprint", "copy"])


def _counts(frame: pd.DataFrame) -> dict[str, int]:
    return {str(use): int(n) for use, n in sorted(frame["use"].value_counts().items())}


def _data_version(root: Path, name: str) -> str | None:
    """Return DVC's hash of ``data/<name>`` if the split that ``work/`` holds was made from it, else None."""
    recorded = require_record(root / "work" / name / "split").inputs
    hashes = hash_paths(root, [f"data/{name}"])
    return dvc_directory_md5(root / "data" / name) if hashes and hashes.items() <= recorded.items() else None
