"""The one adapter to scikit-learn and PyOD, and the probe that every detector of theirs has to pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from annotated_types import Predicate
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from assay.arrays import Singles
from assay.detectors.base import CHUNK, Progress, check_labels, check_rows, require_fitted, require_varied, score_rows
from assay.detectors.plugged.isolation import isolated
from assay.detectors.plugged.probe import probe_rows, require_steady, rows_to_compare
from assay.detectors.plugged.recipe import PATH, Recipe, fitted
from assay.errors import ConfigError, TrainingError
from assay.families import check_part, stored_parameters
from assay.parameters import Count, Says, Seed32, check_parameters
from assay.parts import Part


@dataclass(kw_only=True, eq=False, repr=False)
class External(BaseEstimator):  # type: ignore[misc]
    """A scikit-learn outlier or density estimator, or a PyOD detector, by its class path.

    After fitting it is probed: its scores must be finite, not all alike, the same when asked twice, and the
    same for a row alone and in a batch, because calibrated decisions mean nothing otherwise.

    It can be compared and calibrated, not packaged: its part holds the class path, the parameters, the seed
    and the training rows, and a loaded one is fitted again, the same way, when it first scores. The price is
    one refit a process; the last 8 fitted ones are kept. Therefore it runs on the CPU, and with one thread.

    Parameters
    ----------
    path : str
        For instance "sklearn.svm.OneClassSVM"; only classes under ``sklearn.`` and ``pyod.models.``.
    params : mapping, optional
        Constructor arguments of the class, as JSON values. `random_state`, `device`, `n_jobs` and `verbose`
        are set for it where it has them.
    seed : int
        Its `random_state`, and the state of the global generators while it is fitted and scores.

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    recipe_ : Recipe
        What it is fitted from.
    """

    kind: ClassVar[str] = "external"
    uses_labels: ClassVar[bool] = False

    path: Annotated[str, Predicate(PATH.fullmatch), Says("the path of a class under sklearn. or pyod.models.")]
    params: Annotated[Mapping[str, Any] | None, Says("a mapping of parameters")] = None
    seed: Seed32 = 0

    def check(self) -> Self:
        """Import the class and construct it once.

        Raises
        ------
        ConfigError
            The path is not allowed or leads nowhere, or a parameter is unknown or not allowed.
        """
        self._recipe(np.empty((0, 1), dtype=np.float32)).estimator()
        return self

    def fit(self, X: Singles, y: NDArray[Any] | None = None, *, progress: Progress | None = None) -> Self:
        """Fit on rows of shape (n, d); there is no progress to report.

        Raises
        ------
        ConfigError
            See `check`.
        InputError
            The rows are not a finite array of shape (n, d), or `y` holds labelled anomalies.
        TrainingError
            The estimator cannot be fitted, or does not pass the probe.
        """
        rows = check_rows(X)
        check_labels(self.path, y, len(rows), uses_labels=self.uses_labels)
        if len(rows) < 2:
            raise TrainingError(f"{len(rows)} training rows; detector {self.path!r} needs at least 2: give more")
        recipe = self._recipe(rows.copy())
        native = fitted(recipe)
        with isolated(self.path, self.seed):
            require_steady(self.path, native, probe_rows(rows))
        self.recipe_, self.n_features_in_ = recipe, rows.shape[1]
        require_varied(self.path, self.decision_function(rows_to_compare(rows)))
        return self

    def decision_function(self, X: Singles) -> Singles:
        """Return scores of shape (n,) of rows (n, d); higher = more anomalous."""
        require_fitted(self, "recipe_")
        rows = check_rows(X, self.n_features_in_)
        native = fitted(self.recipe_)
        with isolated(self.path, self.seed):
            return score_rows(native.score, rows, chunk=CHUNK)

    def to_part(self) -> Part:
        """Return class path, parameters, seed and training rows, for files of a run; never for a scorer."""
        require_fitted(self, "recipe_")
        recipe = self.recipe_
        config = {"path": recipe.path, "params": json.loads(recipe.params), "seed": recipe.seed}
        return Part(self.kind, {**config, "n_features": self.n_features_in_}, {"rows": recipe.rows})

    @classmethod
    def from_part(cls, part: Part) -> Self:
        """Rebuild what `to_part` was called on, without fitting or importing anything yet."""
        config = part.config
        check_part(part, {**stored_parameters(cls), "n_features": Count}, {"rows": "float32 m n_features"})
        detector = cls(path=config["path"], params=config["params"], seed=config["seed"])
        detector.recipe_ = detector._recipe(check_rows(part.arrays["rows"], config["n_features"]))
        detector.n_features_in_ = config["n_features"]
        return detector

    def _recipe(self, rows: Singles) -> Recipe:
        check_parameters(f"detector {self.kind!r}", type(self), self.get_params(deep=False))
        try:
            params = json.dumps(dict(self.params or {}), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"detector {self.path!r}: parameters must be plain JSON values: {error}") from error
        digest = hashlib.sha256(f"{rows.shape}".encode() + rows.tobytes()).hexdigest()
        return Recipe(self.path, params, self.seed, digest, rows)
