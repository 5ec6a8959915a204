"""The adapter to scikit-learn and PyOD detectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from annotated_types import Predicate
from numpy.typing import NDArray

from assay.arrays import Singles
from assay.detectors.base import (
    ROWS_AT_ONCE,
    EpochProgress,
    Parametrised,
    check_labels,
    check_rows,
    require_fitted,
    require_varied,
    score_in_chunks,
)
from assay.detectors.plugged.isolation import isolated
from assay.detectors.plugged.probe import probe_rows, require_steady, rows_to_compare
from assay.detectors.plugged.specification import PATH, Specification, fitted
from assay.errors import ConfigError, TrainingError
from assay.families import check_part, stored_parameters
from assay.parameters import Count, Says, Seed, check_parameters
from assay.parts import Part


@dataclass(kw_only=True, eq=False, repr=False)
class External(Parametrised):
    """A scikit-learn outlier or density estimator, or a PyOD detector, by its class path.

    Fitting ends with a probe: scores must be finite, not all equal, the same when computed twice, and the same
    for a row alone and in a batch, because scores cannot be calibrated otherwise.

    It can be compared and calibrated, not packaged: its part holds the class path, the parameters, the seed
    and the training rows, and a loaded one is refitted identically when it first scores. This costs one refit
    per process; the last 8 fitted ones are cached. To be reproducible it runs on the CPU with one thread.

    Parameters
    ----------
    path : str
        For instance "sklearn.svm.OneClassSVM"; only classes under ``sklearn.`` and ``pyod.models.``.
    params : mapping, optional
        Constructor arguments of the class, as JSON values. `random_state`, `device`, `n_jobs` and `verbose`
        are set automatically if the class has them.
    seed : int
        Its `random_state`, and the seed of the global generators while it fits and scores.

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    specification_ : Specification
        Class path, parameters, seed and training rows.
    """

    kind: ClassVar[str] = "external"
    uses_labels: ClassVar[bool] = False

    path: Annotated[str, Predicate(PATH.fullmatch), Says("the path of a class under sklearn. or pyod.models.")]
    params: Annotated[Mapping[str, Any] | None, Says("a mapping of parameters")] = None
    seed: Seed = 0

    def check(self) -> Self:
        """Import the class and construct it once.

        Raises
        ------
        ConfigError
            The path is not allowed or no such class exists, or a parameter is unknown or not allowed.
        """
        self._specification(np.empty((0, 1), dtype=np.float32)).estimator()
        return self

    def fit(self, X: Singles, y: NDArray[Any] | None = None, *, progress: EpochProgress | None = None) -> Self:
        """Fit on rows of shape (n, d); there is no progress to report.

        Raises
        ------
        ConfigError
            See `check`.
        InputError
            The rows are not a finite array of shape (n, d), or `y` holds labelled anomalies.
        TrainingError
            The estimator cannot be fitted, or fails the probe.
        """
        rows = check_rows(X)
        check_labels(self.path, y, len(rows), uses_labels=self.uses_labels)
        if len(rows) < 2:
            raise TrainingError(f"{len(rows)} training rows; detector {self.path!r} needs at least 2: give more")
        specification = self._specification(rows.copy())
        native = fitted(specification)
        with isolated(self.path, self.seed):
            require_steady(self.path, native, probe_rows(rows))
        self.specification_, self.n_features_in_ = specification, rows.shape[1]
        require_varied(self.path, self.decision_function(rows_to_compare(rows)))
        return self

    def decision_function(self, X: Singles) -> Singles:
        """Return scores of shape (n,) of rows (n, d); higher = more anomalous."""
        require_fitted(self, "specification_")
        rows = check_rows(X, self.n_features_in_)
        native = fitted(self.specification_)
        with isolated(self.path, self.seed):
            return score_in_chunks(native.score, rows, chunk=ROWS_AT_ONCE)

    def to_part(self) -> Part:
        """Return class path, parameters, seed and training rows, for the files of a run, never for a scorer."""
        require_fitted(self, "specification_")
        specification = self.specification_
        config = {"path": specification.path, "params": json.loads(specification.params), "seed": specification.seed}
        return Part(self.kind, {**config, "n_features": self.n_features_in_}, {"rows": specification.rows})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild the detector from its part; importing and fitting wait until it scores."""
        config = part.config
        check_part(part, {**stored_parameters(cls), "n_features": Count}, {"rows": "float32 m n_features"})
        detector = cls(path=config["path"], params=config["params"], seed=config["seed"])
        detector.specification_ = detector._specification(check_rows(part.arrays["rows"], config["n_features"]))
        detector.n_features_in_ = config["n_features"]
        return detector

    def _specification(self, rows: Singles) -> Specification:
        check_parameters(f"detector {self.kind!r}", type(self), self.get_params(deep=False))
        try:
            params = json.dumps(dict(self.params or {}), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"detector {self.path!r}: parameters must be plain JSON values: {error}") from error
        digest = hashlib.sha256(f"{rows.shape}".encode() + rows.tobytes()).hexdigest()
        return Specification(self.path, params, self.seed, digest, rows)
