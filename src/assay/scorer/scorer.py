"""The scorer: everything between raw rows and decisions, as one folder of JSON and safetensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.arrays import Texts
from assay.calibration.adapters.registry import ScoreAdapter, load_adapter
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.registry import Calibrator, load_calibrator
from assay.calibration.calibrators.weighted import load_ratio
from assay.calibration.decisions import Reference, Rule, Scored, score_rows
from assay.calibration.hardness import load_strata
from assay.data.modalities.registry import load_null_model, load_scaler
from assay.data.null_models import NullModel
from assay.data.scaling import Scaler
from assay.detectors.base import Detector
from assay.detectors.registry import load_detector, unpackageable
from assay.errors import ScorerError, TamperedError
from assay.hashing import hash_file
from assay.parts import Part, read_arrays, read_json, write_arrays, write_bytes, write_json
from assay.scorer.features import as_features, as_numbers, checked_categories, column_order, names_of

SCHEMA = 2  # a head may name ties, a density ratio and a category column, which readers of 1 alone pass over
READS = (1, 2)
HEAD = "scorer.json"


@dataclass(frozen=True, slots=True)
class ScoreFunction:
    """Scaling, detector and score adapter in a row: raw features to anomaly scores.

    It holds no reference scores, so whoever has only this cannot decide by calibration rows.
    """

    scaler: Scaler
    detector: Detector
    null_model: NullModel
    adapter: ScoreAdapter

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score rows of shape (n, d); returns float32 (n,), higher = more anomalous."""
        return self.scored(features).scores

    def scored(self, features: NDArray[np.float32], categories: Texts | None = None) -> Scored:
        """Score rows of shape (n, d), and keep what calibrators may compare them by."""
        scaled = self.scaler.transform(features)
        return score_rows(self.detector, self.null_model, self.adapter, features, scaled, categories)

    def hardness(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Hardness H(x) of rows of shape (n, d); returns float64 (n,)."""
        return self.null_model.hardness(self.scaler.transform(features))


@dataclass(frozen=True, slots=True)
class Judged:
    """Rows' scores, float32 of shape (n,), and p-values, float64 of shape (n,)."""

    scores: NDArray[np.float32]
    p_values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A packaged anomaly scorer.

    Attributes
    ----------
    head : dict
        Content of ``scorer.json``: columns, candidate, default eps, lineage.
    version : str
        First 12 hex digits of the SHA-256 of ``scorer.json``, which lists the hash of every other file.
    function : ScoreFunction
    reference : Reference
        What scored rows are compared with: the scores of the calibration rows, and by what.
    """

    head: dict[str, Any]
    version: str
    function: ScoreFunction
    reference: Reference

    @property
    def calibrator(self) -> Calibrator:
        """Reference scores of the calibration rows; says what is guaranteed, and the smallest eps."""
        return self.reference.calibrator

    @property
    def category_column(self) -> str | None:
        """Name of the column of categories, where rows are compared within categories."""
        return self.head.get("category_column") if self.calibrator.beside == "category" else None

    @property
    def categories(self) -> tuple[str, ...] | None:
        """The calibrated categories in increasing order, where rows are compared within categories."""
        calibrator = self.calibrator
        if not isinstance(calibrator, MondrianCalibrator) or calibrator.beside != "category":
            return None
        return tuple(map(str, calibrator.keys_))

    @property
    def name(self) -> str:
        """Name of the dataset that the scorer is for."""
        return str(self.head["name"])

    @property
    def tag(self) -> str:
        """``name:version``."""
        return f"{self.name}:{self.version}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features, in the order of the columns of X."""
        return tuple(self.head["columns"])

    def decision_function(self, X: Any) -> NDArray[np.float32]:
        """Return anomaly scores.

        Parameters
        ----------
        X : array-like of numbers, shape (n, d), or DataFrame with the scorer's columns in any order

        Returns
        -------
        ndarray of float32, shape (n,)
            Higher = more anomalous.

        Raises
        ------
        InputError
            Wrong width, unknown or missing columns, values that are not finite numbers.
        """
        return self.function(self._features(X))

    def judge(self, X: Any, category: Sequence[object] | None = None) -> Judged:
        """Return the rows' scores with their p-values.

        Parameters
        ----------
        X : array-like, shape (n, d), or DataFrame
        category : sequence of str or numbers, length n, optional
            The rows' categories, where the scorer compares rows within categories and X is no DataFrame that has
            them in the scorer's ``category_column``. 3, 3.0 and "3" are one.

        Raises
        ------
        InputError
            See `decision_function`; also for a category that is missing or was never calibrated.
        """
        if category is None and self.category_column is not None and self.category_column in names_of(X):
            category = X.iloc[:, names_of(X).index(self.category_column)].to_numpy(dtype=object)
        features = self._features(X)
        by_category = self.calibrator.beside == "category" and category is not None
        categories = checked_categories(category, len(features)) if by_category else None
        scored = self.function.scored(features, categories)
        return Judged(scored.scores, self.reference.p_values(scored))

    def p_values(self, X: Any, category: Sequence[object] | None = None) -> NDArray[np.float64]:
        """Return conformal p-values, float64 of shape (n,); see `judge`."""
        return self.judge(X, category).p_values

    def predict(self, X: Any, eps: float | None = None, category: Sequence[object] | None = None) -> NDArray[np.bool_]:
        """Flag rows: True where p <= eps.

        ``calibrator.guarantee`` says what that means: for most scorers at most eps of new normal rows are flagged
        on average over calibration sets, if they are exchangeable with the calibration rows (split conformal
        prediction; CADET eq 11). Rows of later times are not; ``head["unit"]`` tells which of "row", "group" or
        "time" roles were given by.

        Parameters
        ----------
        X : array-like, shape (n, d), or DataFrame
        eps : float, optional
            Target false-positive rate; the scorer's default where it is left out.
        category : sequence of str or numbers, optional
            See `judge`.

        Raises
        ------
        ConfigError
            `eps` is not a number between 0 and 1.
        InputError
            See `judge`.
        """
        return self.rule(eps=eps).flags(self.p_values(X, category))

    def discover(self, X: Any, fdr: float, category: Sequence[object] | None = None) -> NDArray[np.bool_]:
        """Flag rows of a batch such that at most a share `fdr` of the flagged ones is normal, on average.

        Benjamini-Hochberg on the p-values of the batch (Bates, Candes, Lei, Romano, Sesia 2023).

        Raises
        ------
        ConfigError
            `fdr` is not a number between 0 and 1.
        InputError
            This scorer's p-values have no such guarantee (weighted, grouped and cross calibration).
        """
        return self.rule(fdr=fdr).flags(self.p_values(X, category))

    def rule(self, *, eps: float | None = None, fdr: float | None = None) -> Rule:
        """Return how rows are flagged: by `eps`, by `fdr`, or by the scorer's own eps where both are None.

        Raises
        ------
        ConfigError, InputError
            Both are given; the rate is not between 0 and 1; this scorer's p-values do not allow the decision.
        """
        rule = Rule(self.head["eps"] if eps is None and fdr is None else eps, fdr)
        rule.require(self.calibrator)
        return rule

    def _features(self, X: Any) -> NDArray[np.float32]:
        names = names_of(X)
        if names:
            if self.category_column in names:
                X = X.loc[:, [name != self.category_column for name in names]]
            X = as_numbers(X).iloc[:, column_order(self.columns, names_of(X))].to_numpy()
        return as_features(X, self.columns)


PART_FILES = ("scaler", "detector", "null_model", "strata", "adapter", "calibrator")
RATIO = "ratio"  # only where calibration is weighted


def write_scorer(folder: Path, head: dict[str, Any], parts: dict[str, Part], extra: dict[str, Any]) -> str:
    """Write a scorer folder inside `folder` and return its version.

    Parameters
    ----------
    folder : Path
        The scorer becomes ``folder/<version>``.
    head : dict
        Name, columns, candidate, eps and lineage; ``schema``, ``parts`` and ``files`` are added.
    parts : dict of str to Part
        One for each of scaler, detector, null_model, strata, adapter and calibrator; ratio where there is one.
    extra : dict of str to (dict of arrays, or bytes)
        Further files by relative name: arrays go to safetensors, bytes as they are.

    Raises
    ------
    ScorerError
        The detector may not be packaged.
    """
    if reason := unpackageable(parts["detector"]):
        raise ScorerError(f"nothing was packaged: {reason}")
    staging = folder / ".scorer"
    for name, part in parts.items():
        write_arrays(staging / f"{name}.safetensors", part.arrays)
    for name, content in extra.items():
        if isinstance(content, bytes):
            write_bytes(staging / name, content)
        else:
            write_arrays(staging / name, content)
    files = {p.relative_to(staging).as_posix(): hash_file(p) for p in sorted(staging.rglob("*")) if p.is_file()}
    described = {name: {"kind": part.kind, "config": part.config} for name, part in parts.items()}
    write_json(staging / HEAD, {**head, "schema": SCHEMA, "parts": described, "files": files})
    version = hash_file(staging / HEAD)[:12]
    staging.rename(folder / version)
    return version


def check_files(folder: Path) -> list[str]:
    """Name every file of a scorer folder that is missing or not the one that scorer.json lists."""
    head = _read_head(folder)
    words = []
    for name, digest in sorted(head["files"].items()):
        path = folder / name
        if not path.is_file():
            words.append(f"{path} is missing")
        elif hash_file(path) != digest:
            words.append(f"{path} was changed")
    return words


def load_scorer(folder: Path) -> Scorer:
    """Load a scorer folder onto the CPU, checking every file against its hash first.

    Raises
    ------
    ScorerError
        The folder is no scorer, or was written by a newer version of Assay.
    TamperedError
        A file is missing or was changed.
    """
    head = _read_head(folder)
    folder = folder.resolve()
    version = hash_file(folder / HEAD)[:12]
    if re.fullmatch(r"[0-9a-f]{12}", folder.name) and folder.name != version:
        raise TamperedError(
            f"{folder / HEAD} was changed: its hash begins with {version}, not with {folder.name}; nothing was loaded"
        )
    if found := check_files(folder):
        raise TamperedError(f"{found[0]}; the scorer is not the one that was packaged, and nothing was loaded")
    try:
        parts = {
            name: Part(
                head["parts"][name]["kind"],
                head["parts"][name]["config"],
                read_arrays(folder / f"{name}.safetensors"),
            )
            for name in (*PART_FILES, *([RATIO] if RATIO in head["parts"] else []))
        }
    except KeyError as error:
        raise ScorerError(f"{folder / HEAD} has no part {error}; it needs {', '.join(PART_FILES)}") from error
    if reason := unpackageable(parts["detector"]):
        raise ScorerError(f"{folder} is no scorer that Assay packaged, and nothing was loaded: {reason}")
    return Scorer(
        head=head,
        version=version,
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
            head.get("calibration", {}).get("ties", "counted"),
        ),
    )


def _read_head(folder: Path) -> dict[str, Any]:
    if not (folder / HEAD).is_file():
        raise ScorerError(f"{folder} is not a scorer folder: it has no {HEAD}; see `assay scorers`")
    head: dict[str, Any] = read_json(folder / HEAD)
    if not isinstance(head, dict) or not isinstance(head.get("files", {}), dict):
        raise ScorerError(f"{folder / HEAD} is not what Assay writes")
    if head.get("schema") not in READS or "files" not in head:
        known = " and ".join(map(str, READS))
        raise ScorerError(
            f"{folder / HEAD} has schema {head.get('schema')!r}; this Assay reads {known}; install a newer one"
        )
    return head
