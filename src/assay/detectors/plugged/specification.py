"""The specification of a plugged-in estimator, and the estimators fitted from it."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from assay.arrays import Doubles, Singles
from assay.detectors.plugged.isolation import isolated
from assay.errors import ConfigError, TrainingError

PATH = re.compile(r"(sklearn|pyod\.models)(\.[A-Za-z_]\w*)+")
SET_FOR_ALL = {"device": "cpu", "n_jobs": 1, "verbose": 0}
REFITS_KEPT = 8


@dataclass(frozen=True, slots=True)
class Specification:
    """Everything that a plugged-in estimator is fitted from; equal specifications give equal fits.

    Attributes
    ----------
    path : str
        Path of the class.
    params : str
        Constructor arguments as JSON.
    seed : int
    digest : str
        SHA-256 of the rows' shape and bytes.
    rows : ndarray of float32, shape (n, d)
    """

    path: str
    params: str
    seed: int
    digest: str
    rows: Singles = field(repr=False, compare=False)

    def estimator(self) -> Any:
        """Return the unfitted estimator.

        Raises
        ------
        ConfigError
            The class cannot be imported or is not a detector, or it refuses a parameter.
        """
        with isolated(self.path, self.seed):
            cls = _find_class(self.path)
            arguments = json.loads(self.params)
            names = _parameters(cls)
            if unknown := sorted(set(arguments) - set(names)):
                raise ConfigError(
                    f"detector {self.path!r} takes no parameter {unknown[0]!r}; it takes {', '.join(names) or 'none'}"
                )
            by_run = {"random_state": self.seed, **SET_FOR_ALL}
            signature = inspect.signature(cls).parameters
            try:
                estimator = cls(**arguments, **{name: by_run[name] for name in by_run if name in signature})
            except Exception as error:
                raise ConfigError(f"detector {self.path!r} does not take these parameters: {error}") from error
            method = _score_method(self.path)
            if not hasattr(estimator, method) or not hasattr(estimator, "fit"):
                raise ConfigError(
                    f"{self.path!r} is not an outlier or density estimator: it has no {method}"
                    + ("; LocalOutlierFactor needs novelty: true" if "novelty" in names else "")
                )
        return estimator


def _score_method(path: str) -> str:
    return "score_samples" if path.startswith("sklearn.") else "decision_function"


def _parameters(cls: type) -> list[str]:
    """Return the names of the constructor arguments that params.yaml may set."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    signature = inspect.signature(cls).parameters
    return sorted(
        name for name in signature if signature[name].kind in kinds and name not in {"random_state", *SET_FOR_ALL}
    )


def _find_class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(import_module(module), name, None)
    except ImportError as error:
        if path.startswith("pyod.") and find_spec("pyod") is None:
            raise ConfigError(
                f"detector {path!r} needs PyOD, which is not installed: pip install 'assay[pyod]'"
            ) from error
        raise ConfigError(f"detector {path!r} cannot be imported: {error}") from error
    if not isinstance(cls, type) or PATH.fullmatch(cls.__module__) is None:
        raise ConfigError(f"detector {path!r}: {module} defines no class {name!r}; check the spelling")
    return cls


class _Native:
    """A fitted estimator whose scores are oriented so that higher = more anomalous."""

    def __init__(self, path: str, estimator: Any) -> None:
        self.path, self.estimator = path, estimator

    def score(self, rows: Singles) -> Doubles:
        method = _score_method(self.path)
        try:
            scores = np.asarray(getattr(self.estimator, method)(rows.astype(np.float64)), dtype=np.float64)
        except MemoryError:  # says nothing of the detector
            raise
        except Exception as error:
            raise TrainingError(
                f"detector {self.path!r} cannot score {len(rows)} rows: {_error_text(error)}"
            ) from error
        if scores.shape != (len(rows),):
            raise TrainingError(f"detector {self.path!r} gives scores of shape {scores.shape} to {len(rows)} rows")
        return -scores if method == "score_samples" else scores


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@lru_cache(maxsize=REFITS_KEPT)
def fitted(specification: Specification) -> _Native:
    """Fit an estimator by its specification; the last few are cached, so that a run refits each once.

    Raises
    ------
    ConfigError
        See `Specification.estimator`.
    TrainingError
        The estimator raised an error.
    """
    estimator = specification.estimator()
    with isolated(specification.path, specification.seed):
        try:
            estimator.fit(specification.rows.astype(np.float64))
        except MemoryError:
            raise
        except Exception as error:
            raise TrainingError(f"detector {specification.path!r} cannot be fitted: {_error_text(error)}") from error
    return _Native(specification.path, estimator)
