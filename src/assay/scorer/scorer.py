"""The scorer: every step from raw rows to decisions, stored as one folder of JSON and safetensors files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.arrays import Doubles, Flags, Floats, Singles
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.promise import Bands
from assay.calibration.calibrators.registry import Calibrator
from assay.calibration.decisions import BY_ID, Reference, Rule, Scored, score_with_adapter
from assay.data.documents import DocumentScaler
from assay.data.encoding import Encoder
from assay.data.windows import Windows
from assay.detectors.base import Localises
from assay.errors import InputError
from assay.parameters import check_share
from assay.scorer.explaining import Explanation, contributions, normal_rows, pieces_of
from assay.scorer.explaining_words import ReadDocument, read_documents, word_contributions
from assay.scorer.features import (
    as_features,
    as_numbers,
    as_rows,
    checked_categories,
    checked_ids,
    column_order,
    names_of,
)
from assay.scorer.score_function import ScoreFunction
from assay.scorer.statement import Statement


@dataclass(frozen=True, slots=True)
class Judged:
    """Scores, float32 of shape (n,), and p-values, float64 of shape (n,), of rows."""

    scores: Singles
    p_values: Doubles


@dataclass(frozen=True, slots=True)
class Scorer:
    """A packaged anomaly scorer.

    Attributes
    ----------
    head : dict
        Content of ``scorer.json``: what decides the answers, such as parts, columns and default eps.
    version : str
        First 12 hex digits of the SHA-256 of ``scorer.json``, which lists the hash of every other file of the scorer.
    statement : Statement
        Where the scorer comes from: dataset, candidate, data version, records.
    function : ScoreFunction
    reference : Reference
        The scores of the calibration rows, and how rows are compared with them.
    """

    head: dict[str, Any]
    version: str
    statement: Statement
    function: ScoreFunction
    reference: Reference

    @property
    def calibrator(self) -> Calibrator:
        """The fitted calibrator, with its guarantee and smallest eps."""
        return self.reference.calibrator

    @property
    def guarantee(self) -> str:
        """The guarantee of its p-values, and the assumption: as packaged."""
        return str(self.head.get("guarantee", self.calibrator.guarantee))

    @property
    def limits(self) -> str:
        """What it takes to flag rows at its own eps, where none can be flagged; else ""."""
        return str(self.head.get("limits", self.calibrator.limits(self.head["eps"])))

    @property
    def category_column(self) -> str | None:
        """Name of the column of categories, if rows are compared within categories."""
        return self.head.get("category_column") if self.calibrator.side_information == "category" else None

    @property
    def categories(self) -> tuple[str, ...] | None:
        """The calibrated categories in increasing order, if rows are compared within categories."""
        calibrator = self.calibrator
        if not isinstance(calibrator, MondrianCalibrator) or calibrator.side_information != "category":
            return None
        return tuple(map(str, calibrator.keys_))

    @property
    def name(self) -> str:
        """Name of the scorer's dataset."""
        return self.statement.name

    @property
    def tag(self) -> str:
        """``name:version``."""
        return f"{self.name}:{self.version}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features, in the order of the columns of X."""
        return tuple(self.head["columns"])

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        """The texts of each column of categories, by its name; "" where training rows have none at a position."""
        scaler = self.function.scaler
        return {self.columns[i]: texts for i, texts in scaler.vocabulary.items()} if isinstance(scaler, Encoder) else {}

    @property
    def texts(self) -> tuple[str, ...]:
        """The column of documents, for a scorer of texts, which takes no other column; else none."""
        return self.columns if isinstance(self.function.scaler, DocumentScaler) else ()

    @property
    def windows(self) -> Windows | None:
        """How a file of series becomes its rows, for a scorer of such a file."""
        return Windows.from_json(self.head["windows"]) if "windows" in self.head else None

    @property
    def dates(self) -> tuple[str, ...]:
        """The columns of dates."""
        return self._columns_where("dates")

    @property
    def imputed(self) -> tuple[str, ...]:
        """The columns that may be missing."""
        return self._columns_where("imputed")

    def decision_function(self, X: Any) -> Singles:
        """Return anomaly scores.

        Parameters
        ----------
        X : array-like of numbers, shape (n, d), or table with the scorer's columns in any order
            A table is a DataFrame, or whatever has the PyCapsule interface of Arrow, such as tables of pyarrow and
            frames of polars. What a masked array masks is missing. Columns of categories hold texts, those of dates
            ISO 8601 texts or datetimes. A scorer of texts takes a list of texts, or its one column of them. NaN or
            None is a missing value, in a column that may be missing (`imputed`). A category that training rows do not
            have is a value of its own.

        Returns
        -------
        ndarray of float32, shape (n,)
            Higher = more anomalous.

        Raises
        ------
        InputError
            The width is wrong, columns are unknown or missing, or a value is not a finite number where it must be one.
        """
        return self.function(self._features(as_rows(X)))

    def scored(
        self, X: Any, category: Sequence[object] | None = None, row_ids: Sequence[object] | None = None
    ) -> Scored:
        """Score rows; returns their scores with everything that p-values need.

        Parameters
        ----------
        X : array-like, shape (n, d), or table
        category : sequence of str or numbers, length n, optional
            The rows' categories. Needed if the scorer compares rows within categories and X is not a table with the
            scorer's ``category_column``. 3, 3.0 and "3" are the same category.
        row_ids : sequence of str or numbers, length n, optional
            Names of the rows. Where ties are randomised, a row's id decides how it is ranked among equal calibration
            scores: the same id has the same p-value again. Rows without ids count ties as higher, which is cautious.
            Elsewhere ids change nothing. 3, 3.0 and "3" are the same id.

        Raises
        ------
        InputError
            See `decision_function`; also for a category or an id that is missing.
        """
        X = as_rows(X)
        if category is None and self.category_column is not None and self.category_column in names_of(X):
            category = X.iloc[:, names_of(X).index(self.category_column)].to_numpy(dtype=object)
        features = self._features(X)
        by_category = self.calibrator.side_information == "category" and category is not None
        categories = checked_categories(category, len(features)) if by_category else None
        names = None if row_ids is None else checked_ids(row_ids, len(features))
        return self.function.scored(features, categories, names)

    def judge(
        self, X: Any, category: Sequence[object] | None = None, row_ids: Sequence[object] | None = None
    ) -> Judged:
        """Return the rows' scores with their p-values.

        Raises
        ------
        InputError
            See `scored`; also for a category that was never calibrated.
        """
        scored = self.scored(X, category, row_ids)
        return Judged(scored.scores, self.reference.p_values(scored))

    def p_values(
        self, X: Any, category: Sequence[object] | None = None, row_ids: Sequence[object] | None = None
    ) -> Doubles:
        """Return conformal p-values, float64 of shape (n,); see `judge`."""
        return self.judge(X, category, row_ids).p_values

    def predict(
        self,
        X: Any,
        eps: float | None = None,
        category: Sequence[object] | None = None,
        row_ids: Sequence[object] | None = None,
    ) -> Flags:
        """Flag rows: True where p <= eps.

        `guarantee` states what is promised: for most scorers at most a share eps of new normal rows is flagged, on
        average over calibration sets, if they are exchangeable with the calibration rows (split conformal prediction;
        CADET eq 11). `fpr_bands` is about this one scorer.

        Parameters
        ----------
        X : array-like, shape (n, d), or table
        eps : float, optional
            Target false-positive rate; by default the scorer's own.
        category, row_ids : sequence of str or numbers, optional
            See `scored`.

        Raises
        ------
        ConfigError
            `eps` is not a number between 0 and 1.
        InputError
            See `judge`.
        """
        return self.rule(eps=eps).flags(self.p_values(X, category, row_ids))

    def discover(
        self,
        X: Any,
        fdr: float,
        category: Sequence[object] | None = None,
        row_ids: Sequence[object] | None = None,
    ) -> Flags:
        """Flag rows of a batch so that on average at most a share `fdr` of the flagged rows is normal.

        Benjamini-Hochberg on the p-values of the batch (Bates, Candes, Lei, Romano, Sesia 2023).

        Raises
        ------
        ConfigError
            `fdr` is not a number between 0 and 1.
        InputError
            This scorer's p-values have no such guarantee (weighted, grouped and cross calibration), or `row_ids` hold
            an id twice: the proof needs tie breaks that are independent of each other.
        """
        rule = self.rule(fdr=check_share(fdr, "fdr"))
        self.check_batch_ids(rule, row_ids)
        return rule.flags(self.p_values(X, category, row_ids))

    def explain(
        self, X: Any, category: Sequence[object] | None = None, row_ids: Sequence[object] | None = None
    ) -> Explanation:
        """Return what each column contributes to the scores of rows.

        Parameters
        ----------
        X : array-like, shape (n, d), or table
        category, row_ids : sequence of str or numbers, optional
            See `scored`.

        Raises
        ------
        InputError
            See `scored`; also for a scorer that holds no normal rows, which an earlier version packaged.
        """
        normal_rows(self.reference.strata)
        return self.explain_scored(self.scored(X, category, row_ids))

    def explain_scored(self, scored: Scored) -> Explanation:
        """Return what each column contributes to the scores of rows that are scored already; see `explain`."""
        normals, function = normal_rows(self.reference.strata), self.function
        parts = (function.detector, function.null_model, function.adapter)

        def score(scaled: Singles) -> Singles:
            return score_with_adapter(*parts, scaled, scaled).scores

        scaled = np.asarray(scored.scaled, dtype=np.float32)
        if isinstance(function.scaler, DocumentScaler):
            added, texts = word_contributions(function.scaler, score, normals, scored.features)
            changed = function.scored(texts, scored.categories, scored.row_ids)
            return Explanation(added, self.reference.p_values(changed))
        pieces = pieces_of(self.head)
        origins = pieces[function.scaler.origins] if isinstance(function.scaler, Encoder) else pieces
        shares = contributions(score, normals, scaled, origins)
        is_first = origins == shares.argmax(axis=1)[:, None]
        without = np.where(is_first, normals.nearest(scaled, 1)[:, 0], scaled)
        changed = score_with_adapter(*parts, scored.features, without, scored.categories, scored.row_ids)
        return Explanation((shares / np.bincount(pieces))[:, pieces], self.reference.p_values(changed))

    @property
    def localises(self) -> bool:
        """Whether it has heat maps of images."""
        return isinstance(self.function.detector, Localises)

    def heat_maps(self, X: Any) -> Singles:
        """Return heat maps of flattened images (n, h * w), float32 of shape (n, h, w); higher = more anomalous.

        Raises
        ------
        InputError
            See `decision_function`; also for a scorer whose detector has none (fcdd has).
        """
        detector = self.function.detector
        if not isinstance(detector, Localises):
            raise InputError(f"detector {detector.kind!r} has no heat maps; a scorer with the detector fcdd has")
        return detector.heat_maps(self.function.scaler.transform(self._features(as_rows(X))))

    def explain_texts(self, X: Any) -> list[ReadDocument]:
        """Return what the scores of texts come from, for scorers of texts.

        Raises
        ------
        InputError
            See `decision_function`; also for a scorer of other rows.
        """
        function = self.function
        if not isinstance(function.scaler, DocumentScaler):
            raise InputError("this scorer is not one of texts; `explain` says what columns contribute")
        return read_documents(function.detector, function.scaler, function, self._features(as_rows(X)))

    def check_batch_ids(self, rule: Rule, row_ids: Sequence[object] | None) -> None:
        """Raise `InputError` where a batch is decided by fdr, ties are broken by ids, and an id occurs twice."""
        if rule.fdr is None or row_ids is None or self.reference.ties != BY_ID:
            return
        names = Counter(checked_ids(row_ids, len(row_ids)))
        if repeated := sorted(name for name, count in names.items() if count > 1):
            raise InputError(
                f"row id {repeated[0]!r} occurs twice in one batch; false discoveries are controlled "
                "only where every row has an id of its own: give each one, or leave ids out"
            )

    def fpr_bands(self, eps: float | None = None) -> Bands:
        """Return the band of the false-positive rate of this one scorer for 95 % of draws of its calibration rows.

        Parameters
        ----------
        eps : float, optional
            By default the scorer's own.

        Returns
        -------
        dict of str to (float, float)
            By stratum or category, or "all"; empty where no band is known: where roles were assigned by time, over
            groups or folds, and with weights (`assay.calibration.calibrators.promise.fpr_band`).

        Raises
        ------
        ConfigError
            `eps` is not a number between 0 and 1.
        """
        rate = self.head["eps"] if eps is None else check_share(eps, "eps")
        return {} if "time" in str(self.head.get("unit")) else self.calibrator.fpr_bands(rate)

    def rule(self, *, eps: float | None = None, fdr: float | None = None) -> Rule:
        """Return the rule that flags rows: by `eps`, by `fdr`, or by the scorer's own eps if both are None.

        Raises
        ------
        ConfigError, InputError
            Both are given, the rate is not between 0 and 1, or this scorer's p-values do not allow the decision.
        """
        rule = Rule(self.head["eps"] if eps is None and fdr is None else eps, fdr)
        rule.require(self.calibrator)
        return rule

    def _columns_where(self, attribute: str) -> tuple[str, ...]:
        """Return the columns that a mask of the encoder marks; none where the scaler is no encoder."""
        scaler = self.function.scaler
        if not isinstance(scaler, Encoder):
            return ()
        return tuple(name for name, marked in zip(self.columns, getattr(scaler, attribute), strict=True) if marked)

    def _features(self, X: Any) -> Floats:
        names = names_of(X)
        if names:
            if self.category_column in names:
                X = X.loc[:, [name != self.category_column for name in names]]
            X = as_numbers(X).iloc[:, column_order(self.columns, names_of(X))].to_numpy()
        return as_features(X, self.columns, self.function.scaler)
