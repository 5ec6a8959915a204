"""The detectors by name. A new one is one file, one line here and one test file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from assay.data.modalities.base import Modality
from assay.data.modalities.tabular import TABULAR
from assay.detectors.base import Detector
from assay.families import Family
from assay.parts import Part

DETECTORS: dict[str, str] = {
    "autoencoder": "assay.detectors.methods.autoencoder:Autoencoder",
    "knn": "assay.detectors.baselines.knn:KNearestNeighbors",
    "isolation_forest": "assay.detectors.baselines.isolation_forest:IsolationForest",
    "mcd": "assay.detectors.baselines.mcd:MinimumCovarianceDeterminant",
    "kde": "assay.detectors.baselines.kde:KernelDensity",
    "pca": "assay.detectors.baselines.pca:PrincipalComponents",
    "lof": "assay.detectors.baselines.lof:LocalOutlierFactor",
    "reach": "assay.detectors.baselines.reach:Reach",
    "denoising_autoencoder": "assay.detectors.methods.denoising:DenoisingAutoencoder",
    "vae": "assay.detectors.methods.vae:VariationalAutoencoder",
    "rapp": "assay.detectors.methods.rapp:RaPP",
    "realnvp": "assay.detectors.methods.realnvp:RealNVP",
    "dagmm": "assay.detectors.methods.dagmm:DAGMM",
    "rescaled": "assay.detectors.wrappers.rescaled:Rescaled",
    "subsampled": "assay.detectors.wrappers.subsampled:Subsampled",
    "trimmed": "assay.detectors.wrappers.trimmed:Trimmed",
    "cross": "assay.detectors.wrappers.cross:Cross",
    "blend": "assay.detectors.wrappers.blend:Blend",
    "ncae": "assay.detectors.methods.ncae:NormalityCalibratedAutoencoder",
    "deep_svdd": "assay.detectors.methods.deep_svdd:DeepSVDD",
    "deep_sad": "assay.detectors.methods.deep_sad:DeepSAD",
    "hsc": "assay.detectors.methods.hsc:HSC",
    "devnet": "assay.detectors.methods.devnet:DevNet",
    "loe": "assay.detectors.methods.loe:LatentOutlierExposure",
    "fcdd": "assay.detectors.methods.fcdd:FCDD",
    "lstm_predictor": "assay.detectors.methods.lstm_predictor:LSTMPredictor",
    "lstm_autoencoder": "assay.detectors.methods.lstm_autoencoder:LSTMAutoencoder",
    "contradicting": "assay.detectors.methods.contradicting:Contradicting",
    "cvdd": "assay.detectors.methods.cvdd:CVDD",
}
SET_BY_THE_RUN = ("seed", "image_shape", "series_shape", "device")
EXTERNAL = "external"
_NAMED = Family[Detector](
    "detector",
    DETECTORS,
    SET_BY_THE_RUN,
    suffix=", and the classes of scikit-learn and PyOD by their paths, for instance sklearn.svm.OneClassSVM",
)
_LOADED = Family[Detector]("detector", {**DETECTORS, EXTERNAL: "assay.detectors.plugged.external:External"})


def detector_class(name: str) -> Any:
    """Import and return the class of a registered detector.

    Raises
    ------
    ConfigError
        No detector has that name.
    """
    return _NAMED.member(name)


def is_wrapper(name: str) -> bool:
    """Return whether a name is that of a detector that wraps others."""
    return DETECTORS.get(name, "").startswith("assay.detectors.wrappers.")


def make_detector(
    name: str,
    params: Mapping[str, Any],
    *,
    seed: int,
    modality: Modality = TABULAR,
    device: str = "auto",
) -> Detector:
    """Return an unfitted detector.

    Parameters
    ----------
    name : str
        A key of `DETECTORS`, or the path of a class of scikit-learn or PyOD (see `assay.detectors.plugged`).
    params : mapping
        Its constructor arguments, without those below; missing ones take their defaults.
    seed : int
        Passed to the detectors that draw random numbers.
    modality : Modality
        Its shape is passed to the detectors that use one.
    device : {"auto", "cpu", "cuda"}
        Passed to the detectors that train networks.

    Raises
    ------
    ConfigError
        The name or a parameter is unknown, or a value is not allowed.
    """
    detector: Any
    if "." in name:
        external: Any = _LOADED.member(EXTERNAL)
        detector = external(path=name, params=dict(params), seed=seed)
    else:
        shapes = {"image_shape": None, "series_shape": None, **modality.network_arguments()}
        by_run = {"seed": seed, "device": device, **shapes}
        detector = _NAMED.make(name, params, by_run)
    return cast(Detector, detector.check() if hasattr(detector, "check") else detector)


def describe_detectors() -> list[dict[str, Any]]:
    """Return name, one-line summary, use of labels and parameters with defaults of every detector."""
    descriptions = []
    for name in DETECTORS:
        cls = detector_class(name)
        defaults = {key: value for key, value in cls().get_params().items() if key not in SET_BY_THE_RUN}
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        descriptions.append({"name": name, "summary": summary, "uses_labels": cls.uses_labels, "params": defaults})
    return descriptions


def unpackageable(part: Part) -> str:
    """Return why a detector's part may not be packaged or loaded from a scorer; "" if it may."""
    for config in _nested({"kind": part.kind, "config": part.config}):
        if config.get("kind") == EXTERNAL:
            path = config["config"].get("path", "it") if isinstance(config.get("config"), Mapping) else "it"
            return f"{str(path).rpartition('.')[2]} has no array form; it can be compared and calibrated, not packaged"
    return ""


def learns_from_labels(part: Part) -> bool:
    """Return whether a fitted detector, or one that it wraps, learns from labelled anomalies."""
    kinds = (config.get("kind") for config in _nested({"kind": part.kind, "config": part.config}))
    return any(kind in DETECTORS and detector_class(kind).uses_labels for kind in kinds if isinstance(kind, str))


def _nested(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every mapping in a configuration, those of wrapped detectors included."""
    if isinstance(config, Mapping):
        yield config
    for inner in config.values() if isinstance(config, Mapping) else config if isinstance(config, list) else ():
        yield from _nested(inner)


def load_detector(part: Part) -> Detector:
    """Rebuild a fitted detector from the part that its `to_part` returned.

    Loaders of scorers must call `unpackageable` first: a part that names a class path is never loaded from a scorer.

    Raises
    ------
    ScorerError
        The kind is not registered, or the part is damaged.
    """
    return _LOADED.load(part)
