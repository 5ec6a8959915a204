"""The folder of a scorer: ``scorer.json``, which holds what decides the answers, and a file of arrays for each part.

The version of a scorer is the hash of ``scorer.json``. In schemas 1 and 2 it holds the lineage of the scorer too, so
that an edit of code without effect gave another version. From schema 3 on, that is in statements beside it
(`assay.scorer.statement`).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Len, Predicate

from assay.data.windows import Windows
from assay.detectors.registry import unpackageable
from assay.errors import ConfigError, ScorerError
from assay.hashing import hash_file
from assay.parameters import Says, Share, check_value
from assay.parts import Part, read_json, write_arrays, write_json

HEAD = "scorer.json"
FOLDER_NAME = re.compile(r"([0-9a-f]{12})(-[0-9a-f]{12})?")  # with its statement in BentoML's store
PART_FILES = ("scaler", "detector", "null_model", "strata", "adapter", "calibrator")
RATIO = "ratio"  # only if calibration is weighted
SCHEMA = 3
READABLE_SCHEMAS = (1, 2, 3)
LAST_EMBEDDED = 2  # up to this schema scorer.json holds the lineage
# To be raised whenever inference code changes a bit of what a frozen scorer answers (tests/unit/scorer/test_frozen.py).
ANSWERS = 1
_Names = Annotated[
    tuple[Annotated[str, Len(1)], ...],
    Len(1),
    Predicate(lambda names: len(set(names)) == len(names)),
    Says("a list of different names"),
]
_DECIDING = {"columns": _Names, "eps": Share}
_OPTIONAL = {
    "category_column": str | None,
    "ties": Literal["counted", "by_id", "randomised"],
    **dict.fromkeys(("unit", "within", "guarantee", "limits"), str),
}


def write_scorer(folder: Path, head: Mapping[str, Any], parts: Mapping[str, Part]) -> str:
    """Write a scorer folder inside `folder` and return its version.

    A scorer of that version that is there already stays as it is.

    Parameters
    ----------
    folder : Path
        The scorer becomes ``folder/<version>``.
    head : mapping
        All that decides the answers but parts; ``schema``, ``answers``, ``parts`` and ``files`` are added.
    parts : mapping of str to Part
        Scaler, detector, null_model, strata, adapter and calibrator; also ratio if calibration is weighted.

    Raises
    ------
    ScorerError
        The detector cannot be packaged.
    """
    if reason := unpackageable(parts["detector"]):
        raise ScorerError(f"nothing was packaged: {reason}")
    # The version is known only once all files are written; a folder is complete before it gets its final name.
    staging = folder / ".scorer"
    for name, part in parts.items():
        write_arrays(staging / f"{name}.safetensors", part.arrays)
    files = {f"{name}.safetensors": hash_file(staging / f"{name}.safetensors") for name in parts}
    described = {name: {"kind": part.kind, "config": part.config} for name, part in parts.items()}
    write_json(staging / HEAD, {**head, "schema": SCHEMA, "answers": ANSWERS, "parts": described, "files": files})
    version = hash_file(staging / HEAD)[:12]
    if (folder / version).exists():
        shutil.rmtree(staging)
    else:
        staging.rename(folder / version)
    return version


def check_files(folder: Path) -> list[str]:
    """Return a message for every file of a scorer folder that is missing or differs from its hash in scorer.json."""
    head = read_head(folder)
    messages = []
    for name, digest in sorted(head["files"].items()):
        path = folder / name
        if not path.is_file():
            messages.append(f"{path} is missing")
        elif hash_file(path) != digest:
            messages.append(f"{path} was changed")
    return messages


def read_head(folder: Path) -> dict[str, Any]:
    """Return the content of a scorer's ``scorer.json``.

    Raises
    ------
    ScorerError
        The folder is not a scorer folder, or a newer version of Assay wrote it.
    """
    if not (folder / HEAD).is_file():
        raise ScorerError(f"{folder} is not a scorer folder: it has no {HEAD}; see `assay scorers`")
    head: dict[str, Any] = read_json(folder / HEAD)
    if not isinstance(head, dict) or not isinstance(head.get("files", {}), dict):
        raise ScorerError(f"{folder / HEAD} is not what Assay writes")
    if head.get("schema") not in READABLE_SCHEMAS or "files" not in head:
        raise ScorerError(
            f"{folder / HEAD} has schema {head.get('schema')!r}; this Assay reads "
            f"{', '.join(map(str, READABLE_SCHEMAS[:-1]))} and {SCHEMA}; install a newer one"
        )
    _check_deciding(folder / HEAD, head)
    if outside := [name for name in head["files"] if ".." in Path(name).parts or Path(name).is_absolute()]:
        raise ScorerError(f"{folder / HEAD} lists {outside[0]!r}, which is not in its folder; do not use this scorer")
    answers = head.get("answers", 0)
    if head["schema"] > LAST_EMBEDDED and (type(answers) is not int or answers > ANSWERS):
        raise ScorerError(
            f"{folder / HEAD} has answers {answers!r}, and this Assay knows up to {ANSWERS}: it would not give the "
            "scorer's answers to the last bit; install a newer one"
        )
    return head


def _check_deciding(path: Path, head: Mapping[str, Any]) -> None:
    """Raise `ScorerError` unless what decides the answers has values that it may have."""
    given = {name: kind for name, kind in _OPTIONAL.items() if name in head}
    for name, kind in (_DECIDING | given).items():
        try:
            check_value(f"{path}: {name}", head.get(name), kind)
        except ConfigError as error:
            raise ScorerError(f"{error}; do not use this scorer") from error
    if "windows" not in head:
        return
    try:
        windows = Windows.from_json(head["windows"])
    except (ConfigError, AttributeError, TypeError) as error:
        raise ScorerError(f"{path}: {error}; do not use this scorer") from error
    n_values = windows.length * len(windows.channels)
    if n_values != len(head["columns"]) or windows.columns != tuple(head["columns"]):
        raise ScorerError(f"{path}: its windows are not of its columns; do not use this scorer")
