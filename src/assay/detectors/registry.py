"""The detectors by name. A new one is one file, one line here and one test file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from assay.detectors.base import Detector, check_parameters
from assay.errors import ConfigError, ScorerError
from assay.parts import Part

DETECTORS: dict[str, str] = {
    "autoencoder": "assay.detectors.autoencoder:Autoencoder",
    "knn": "assay.detectors.adapter:KNearestNeighbors",
    "isolation_forest": "assay.detectors.adapter:IsolationForest",
    "mcd": "assay.detectors.adapter:MinimumCovarianceDeterminant",
}
SET_BY_THE_RUN = ("seed", "image_shape", "device")


def detector_class(name: str) -> Any:
    """Import and return the class of a registered detector.

    Raises
    ------
    ConfigError
        There is no detector of that name.
    """
    if name not in DETECTORS:
        raise ConfigError(f"there is no detector {name!r}; there are {', '.join(sorted(DETECTORS))}")
    module, _, attribute = DETECTORS[name].partition(":")
    return getattr(import_module(module), attribute)


def make_detector(
    name: str,
    params: Mapping[str, Any],
    *,
    seed: int,
    image_shape: tuple[int, int] | None = None,
    device: str = "auto",
) -> Detector:
    """Return an unfitted detector.

    Parameters
    ----------
    name : str
        A key of `DETECTORS`.
    params : mapping
        Its constructor arguments, without those below; the ones left out take their defaults.
    seed : int
        Given to the detectors that draw random numbers.
    image_shape : (int, int), optional
        Given to the detectors that know images.
    device : {"auto", "cpu", "cuda"}
        Given to the detectors that train networks.

    Raises
    ------
    ConfigError
        The name or a parameter is unknown, or a value is not allowed.
    """
    cls = detector_class(name)
    choices = {key: rule for key, rule in cls.allowed.items() if key not in SET_BY_THE_RUN}
    check_parameters(name, params, choices)
    by_run = {"seed": seed, "image_shape": image_shape, "device": device}
    given = {key: by_run[key] for key in SET_BY_THE_RUN if key in cls.allowed}
    check_parameters(name, given, cls.allowed)
    return cast(Detector, cls(**params, **given))


def describe_detectors() -> list[dict[str, Any]]:
    """Return name, one-line summary and parameters with defaults of every detector, for people and scripts."""
    found = []
    for name in DETECTORS:
        cls = detector_class(name)
        defaults = {key: value for key, value in cls().get_params().items() if key not in SET_BY_THE_RUN}
        found.append({"name": name, "summary": (cls.__doc__ or "").strip().splitlines()[0], "params": defaults})
    return found


def load_detector(part: Part) -> Detector:
    """Rebuild a fitted detector from what its `to_part` returned.

    Raises
    ------
    ScorerError
        The part is of no registered kind, or its config and arrays do not fit together.
    """
    if part.kind not in DETECTORS:
        raise ScorerError(f"part of kind {part.kind!r} is no detector; there are {', '.join(sorted(DETECTORS))}")
    try:
        return cast(Detector, detector_class(part.kind).from_part(part))
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ScorerError(f"part of detector {part.kind!r} is damaged: {error}") from error
