"""Loading a scorer: every file is checked against its hash, and every part for what its kind allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from assay.calibration.adapters.registry import load_adapter
from assay.calibration.calibrators.registry import load_calibrator
from assay.calibration.calibrators.weighted import load_ratio
from assay.calibration.decisions import Reference
from assay.calibration.hardness import load_strata
from assay.data.documents import DocumentScaler
from assay.data.modalities.registry import load_null_model, load_scaler
from assay.detectors.registry import load_detector, unpackageable
from assay.errors import ScorerError, TamperedError
from assay.hashing import hash_file
from assay.parts import Part, read_arrays
from assay.scorer.folder import FOLDER_NAME, HEAD, PART_FILES, RATIO, check_files, read_head
from assay.scorer.score_function import ScoreFunction
from assay.scorer.scorer import Scorer
from assay.scorer.statement import read_statement

PART_HEAD = {"kind", "config"}


def load_scorer(folder: Path, statement: str | None = None) -> Scorer:
    """Load a scorer folder onto the CPU after checking every file of it, and of a statement, against its hash.

    Parameters
    ----------
    folder : Path
    statement : str, optional
        Id of one of its statements; by default the first one. The answers are the same with any.

    Raises
    ------
    ScorerError
        The folder is not a scorer folder, has no such statement, or was written by a newer version of Assay.
    TamperedError
        A file is missing or was changed.
    """
    head = read_head(folder)
    folder = folder.resolve()
    version = hash_file(folder / HEAD)[:12]
    if (named := FOLDER_NAME.fullmatch(folder.name)) and named[1] != version:
        raise TamperedError(
            f"{folder / HEAD} was changed: its hash begins with {version}, not with {named[1]}; nothing was loaded"
        )
    # All hashes are checked before any file is parsed.
    if messages := check_files(folder):
        raise TamperedError(f"{messages[0]}; the scorer is not the one that was packaged, and nothing was loaded")
    sealed = read_statement(folder, statement)
    heads = head["parts"] if isinstance(head.get("parts"), dict) else {}
    names = (*PART_FILES, *([RATIO] if RATIO in heads else []))
    if missing := [name for name in names if not isinstance(heads.get(name), dict) or set(heads[name]) != PART_HEAD]:
        raise ScorerError(f"{folder / HEAD} has no part {missing[0]!r}; it needs {', '.join(PART_FILES)}")
    if unlisted := [f"{name}.safetensors" for name in names if f"{name}.safetensors" not in head["files"]]:
        raise ScorerError(f"{folder / HEAD} has no hash of {unlisted[0]}; nothing was loaded, do not use this scorer")
    parts = {
        name: Part(heads[name]["kind"], heads[name]["config"], read_arrays(folder / f"{name}.safetensors"))
        for name in names
    }
    if reason := unpackageable(parts["detector"]):
        raise ScorerError(f"{folder} is no scorer that Assay packaged, and nothing was loaded: {reason}")
    scorer = Scorer(
        head=head,
        version=version,
        statement=sealed,
        function=ScoreFunction(
            load_scaler(parts["scaler"]),
            load_detector(parts["detector"]),
            load_null_model(parts["null_model"]),
            load_adapter(parts["adapter"]),
        ),
        reference=Reference(
            load_calibrator(parts["calibrator"]),
            load_strata(parts["strata"]),
            load_ratio(parts[RATIO]) if RATIO in parts else None,
            head["ties"] if "ties" in head else sealed.calibration.get("ties", "counted"),
            version,
        ),
    )
    _try(scorer)
    return scorer


def _try(scorer: Scorer) -> None:
    """Score a row; raise `ScorerError` where the parts do not fit each other or give no finite score.

    It is a row of zeros, or a document of the last words that a scorer of texts knows.
    """
    scaler = scorer.function.scaler
    row = np.zeros((1, len(scorer.columns)), dtype=scaler.precision)
    if isinstance(scaler, DocumentScaler):
        row = np.full((1, scaler.width_), np.nan)
        codes = scaler.codes_[-scaler.width_ :]
        row[0, : len(codes)] = codes
    categories = None if scorer.categories is None else np.array(scorer.categories[:1], dtype=object)
    try:
        scored = scorer.function.scored(row, categories)
        if not np.isfinite(scored.scores).all():
            raise ValueError(f"a row has the score {scored.scores[0]}")
        scorer.reference.p_values(scored)
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        raise ScorerError(f"the parts of {scorer.tag} do not fit each other: {message}; do not use it") from error
