"""Finished levels of an interrupted stage, kept so that the next run goes on from there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assay.parts import read_json, write_json

_FILES, _RESULT = "files", "result.json"


def finish_level(level: str, out: Path, checkpoints: Path, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Do the work of one level unless an interrupted run of the same stage has finished it.

    Parameters
    ----------
    level : str
    out : Path
        Folder that gets what `work` wrote.
    checkpoints : Path
        Folder that belongs to the same inputs, parameters and code.
    work : callable
        Gets an empty folder, writes files there, and returns JSON values.

    Returns
    -------
    dict
        What `work` returned.
    """
    kept = checkpoints / level
    if not (kept / _RESULT).is_file():
        shutil.rmtree(kept, ignore_errors=True)
        (kept / _FILES).mkdir(parents=True)
        write_json(kept / _RESULT, work(kept / _FILES))
    shutil.copytree(kept / _FILES, out, dirs_exist_ok=True)
    result: dict[str, Any] = read_json(kept / _RESULT)
    return result
