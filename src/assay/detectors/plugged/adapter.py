"""The one adapter to scikit-learn and PyOD, and the probe that every detector of theirs has to pass."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from threadpoolctl import threadpool_limits

from assay.detectors.base import (
    Allowed,
    Doubles,
    Floats,
    Progress,
    check_labels,
    check_parameters,
    check_rows,
    require_fitted,
    require_varied,
    score_rows,
    seed,
)
from assay.errors import ConfigError, TrainingError
from assay.parts import Part

CHUNK = 2048
PROBE_ROWS = 32
PROBE_TOLERANCE = 1e-5
MOST_COMPARED_ROWS = 1_000
REFITS_KEPT = 8
PATH = re.compile(r"(sklearn|pyod\.models)(\.[A-Za-z_]\w*)+")
HASH_SEED = "PYTHONHASHSEED"
SET_FOR_ALL = {"device": "cpu", "n_jobs": 1, "verbose": 0}


class Scores(Protocol):
    """Anything that scores checked rows in float64."""

    def score(self, rows: Floats) -> Doubles:
        """Return scores of shape (n,); higher = more anomalous."""
        ...


def probe_rows(rows: Floats) -> Floats:
    """Return the few training rows, evenly spaced, that a detector is probed with."""
    return rows[:: max(1, len(rows) // PROBE_ROWS)]


def rows_to_compare(rows: Floats) -> Floats:
    """Return some training rows, and rows between them: a row is its own neighbour, those are not."""
    some = rows[:: max(1, len(rows) // MOST_COMPARED_ROWS)]
    return np.concatenate([some, some / 2 + np.roll(some, 1, axis=0) / 2])


def require_steady(kind: str, form: Scores, rows: Floats) -> None:
    """Score some rows in a batch, again, and one by one, and compare.

    Alone and in a batch, scores may differ by a hundred-thousandth of their size and range: the rounding of a
    network in float32.

    Raises
    ------
    TrainingError
        The scores are not finite, not the same twice, or depend on the batch.
    """
    batch, again = form.score(rows), form.score(rows)
    if not np.isfinite(batch).all():
        raise TrainingError(f"detector {kind!r} gives scores that are not finite; scale the features")
    if not np.array_equal(batch, again):
        raise TrainingError(
            f"detector {kind!r} gives the same rows other scores when asked again: it draws random numbers "
            "while scoring, so its scores cannot be calibrated; use another detector"
        )
    alone = np.concatenate([form.score(rows[i : i + 1]) for i in range(len(rows))])
    if not np.allclose(alone, batch, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE * float(np.ptp(batch))):
        raise TrainingError(
            f"detector {kind!r} scores a row differently alone and in a batch; "
            "its scores cannot be calibrated: use another detector"
        )


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
    allowed: ClassVar[dict[str, Allowed]] = {
        "path": Allowed(
            "the path of a class under sklearn. or pyod.models.",
            lambda value: isinstance(value, str) and PATH.fullmatch(value) is not None,
        ),
        "params": Allowed("a mapping of parameters", lambda value: value is None or isinstance(value, Mapping)),
        "seed": seed(),
    }
    uses_labels: ClassVar[bool] = False

    def __init__(self, path: str, params: Mapping[str, Any] | None = None, *, seed: int = 0) -> None:
        self.path = path
        self.params = params
        self.seed = seed

    def check(self) -> Self:
        """Import the class and construct it once.

        Raises
        ------
        ConfigError
            The path is not allowed or leads nowhere, or a parameter is unknown or not allowed.
        """
        self._recipe(np.empty((0, 1), dtype=np.float32)).estimator()
        return self

    def fit(self, X: Floats, y: NDArray[Any] | None = None, *, progress: Progress | None = None) -> Self:
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

    def decision_function(self, X: Floats) -> Floats:
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
        detector = cls(config["path"], config["params"], seed=config["seed"])
        detector.recipe_ = detector._recipe(check_rows(part.arrays["rows"], config["n_features"]))
        detector.n_features_in_ = config["n_features"]
        return detector

    def _recipe(self, rows: Floats) -> Recipe:
        check_parameters(self.kind, self.get_params(deep=False), self.allowed)
        try:
            params = json.dumps(dict(self.params or {}), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"detector {self.path!r}: parameters must be plain JSON values: {error}") from error
        digest = hashlib.sha256(f"{rows.shape}".encode() + rows.tobytes()).hexdigest()
        return Recipe(self.path, params, self.seed, digest, rows)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a plugged-in estimator is fitted from; equal ones give equal fits.

    Attributes
    ----------
    path : str
        Of the class.
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
    rows: Floats = field(repr=False, compare=False)

    def estimator(self) -> Any:
        """Return the estimator, not fitted.

        Raises
        ------
        ConfigError
            The class or a parameter is not what it should be.
        """
        with isolated(self.path, self.seed):
            cls = _find_class(self.path)
            given = json.loads(self.params)
            names = _parameters(cls)
            if unknown := sorted(set(given) - set(names)):
                raise ConfigError(
                    f"detector {self.path!r} takes no parameter {unknown[0]!r}; it takes {', '.join(names) or 'none'}"
                )
            by_run = {"random_state": self.seed, **SET_FOR_ALL}
            signature = inspect.signature(cls).parameters
            try:
                estimator = cls(**given, **{name: by_run[name] for name in by_run if name in signature})
            except Exception as error:
                raise ConfigError(f"detector {self.path!r} does not take these parameters: {error}") from error
            method = _score_method(self.path)
            if not hasattr(estimator, method) or not hasattr(estimator, "fit"):
                raise ConfigError(
                    f"{self.path!r} is no outlier or density estimator: it has no {method}"
                    + ("; LocalOutlierFactor needs novelty: true" if "novelty" in names else "")
                )
        return estimator


def _score_method(path: str) -> str:
    return "score_samples" if path.startswith("sklearn.") else "decision_function"


def _parameters(cls: type) -> list[str]:
    """Return the names of the constructor arguments that params.yaml may set."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    given = inspect.signature(cls).parameters
    return sorted(name for name in given if given[name].kind in kinds and name not in {"random_state", *SET_FOR_ALL})


def _find_class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        if path.startswith("pyod.") and find_spec("pyod") is None:
            raise ConfigError(
                f"detector {path!r} needs PyOD, which is not installed: pip install 'assay[pyod]'"
            ) from error
        raise ConfigError(f"detector {path!r} cannot be imported: {error}") from error
    if not isinstance(found, type) or PATH.fullmatch(found.__module__) is None:
        raise ConfigError(f"detector {path!r}: {module} has no class {name!r} of its own; check the spelling")
    return found


class _Native:
    """A fitted estimator that scores by itself, turned so that higher = more anomalous."""

    def __init__(self, path: str, estimator: Any) -> None:
        self.path, self.estimator = path, estimator

    def score(self, rows: Floats) -> Doubles:
        method = _score_method(self.path)
        try:
            scores = np.asarray(getattr(self.estimator, method)(rows.astype(np.float64)), dtype=np.float64)
        except Exception as error:
            raise TrainingError(f"detector {self.path!r} cannot score {len(rows)} rows: {_said(error)}") from error
        if scores.shape != (len(rows),):
            raise TrainingError(f"detector {self.path!r} gives scores of shape {scores.shape} to {len(rows)} rows")
        return -scores if method == "score_samples" else scores


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@lru_cache(maxsize=REFITS_KEPT)
def fitted(recipe: Recipe) -> _Native:
    """Fit what a recipe says; the last few are kept, so that a run refits each once.

    Raises
    ------
    ConfigError
        See `Recipe.estimator`.
    TrainingError
        The estimator raised whatever it did.
    """
    estimator = recipe.estimator()
    with isolated(recipe.path, recipe.seed):
        try:
            estimator.fit(recipe.rows.astype(np.float64))
        except Exception as error:
            raise TrainingError(f"detector {recipe.path!r} cannot be fitted: {_said(error)}") from error
    return _Native(recipe.path, estimator)


@contextmanager
def isolated(path: str, seed: int) -> Iterator[None]:
    """Let foreign code run with one thread and seeded global generators; leave those as they were found.

    PyOD's networks draw from the global generators of Python, NumPy and torch, and seed them, some while they
    are imported; they set PYTHONHASHSEED for later processes, too. This is the one place where the global states
    are touched. Warnings are silenced, and what is printed goes to standard error, so that it cannot get between
    the lines of a program's output.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with ExitStack() as stack:
        stack.callback(_set_hash_seed, os.environ.get(HASH_SEED))
        stack.callback(random.setstate, python)
        stack.callback(np.random.set_state, legacy)
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(redirect_stdout(sys.stderr))
        stack.enter_context(threadpool_limits(limits=1))
        if path.startswith("pyod."):
            stack.enter_context(_isolated_torch(seed))
            stack.enter_context(_pinned_numba())
        warnings.simplefilter("ignore")
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        yield


def _set_hash_seed(value: str | None) -> None:
    if value is None:
        os.environ.pop(HASH_SEED, None)
    else:
        os.environ[HASH_SEED] = value


@contextmanager
def _isolated_torch(seed: int) -> Iterator[None]:
    import torch

    from assay.detectors.training.loop import pinned_threads

    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if in_use else ()
    with pinned_threads(), torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _pinned_numba() -> Iterator[None]:
    """Let numba, which PyOD imports, use one thread inside the block."""
    numba: Any = sys.modules.get("numba")
    if numba is None:
        yield
        return
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before)
