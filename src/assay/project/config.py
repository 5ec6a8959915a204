"""The settings of a run, read from ``params.yaml``; classes elsewhere get plain arguments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt, Predicate

from assay.errors import ConfigError
from assay.names import Choice, check_label, check_name
from assay.parameters import Count, Device, Says, Seed, check_share, check_value
from assay.parts import parse_yaml

ALWAYS = ("knn", "isolation_forest", "mcd")


def _is_promise(value: object) -> bool:
    from assay.calibration.calibrators.promise import Promise

    try:
        Promise.parse(value)
    except ConfigError:
        return False
    return True


Levels = Annotated[
    Literal["auto"]
    | Annotated[tuple[float, ...], Predicate(lambda levels: len({f"{rho:g}" for rho in levels}) == len(levels))],
    Says("auto, or a list of different numbers, for instance [0, 0.05, 0.1]"),
]
Promised = Annotated[
    object, Predicate(_is_promise), Says("average, or {confidence: 0.9}, with all_eps: true in it for all eps at once")
]
SECTIONS: dict[str, dict[str, Any]] = {
    "split": {"seed": Seed},
    "contaminate": {
        "levels": Levels,
        "source": str,
        "labelled": Annotated[float, Ge(0), Lt(0.5)],
        "seed": Seed,
    },
    "train": {"seed": Seed, "device": Device},
    "calibrate": {
        "within": Literal["all", "hardness", "category"],
        "ties": Literal["counted", "randomised"],
        "promise": Promised,
        "seed": Seed,
    },
    "select": {"seed": Seed, "without_labels": str},
    "run": {"cells_at_once": Literal["auto"] | Count, "runner": Literal["local", "dask"], "address": str},
}
Gate = Literal["superior", "noninferior", "ask"]
ASK = "ask"
DEFAULTS = {"gate": "superior"}  # no stage depends on it, so that it may be left out
KNOWN = ("dataset", "datasets", "eps", *SECTIONS, "detectors", "adapters", "gate")
DETECTOR = "detector"
PROBES = "probes"  # choose by synthetic anomalies


@dataclass(frozen=True, slots=True)
class Config:
    """The content of params.yaml. Every setting but ``gate`` has to be in the file, since DVC tracks changes there.

    Attributes
    ----------
    dataset : str
        Name of the folder in ``data/`` that `assay run` works on.
    datasets : tuple of str
        Names of all datasets that are kept up to date; ``dataset`` is among them.
    eps : float
        Target false-positive rate of the decisions that candidates are compared by.
    sections : dict
        ``split``, ``contaminate``, ``train``, ``calibrate``, ``select`` and ``run``.
    detectors, adapters : tuple of Choice
        In the order of the file.
    gate : {"superior", "noninferior", "ask"}
        What a challenger must be to replace the champion; by "ask", better, and then a person decides.
    """

    dataset: str
    datasets: tuple[str, ...]
    eps: float
    sections: dict[str, dict[str, Any]]
    detectors: tuple[Choice, ...]
    adapters: tuple[Choice, ...]
    gate: str


def read_params(path: Path) -> dict[str, Any]:
    """Read params.yaml, check it as `parse_config` does, and return its content.

    Raises
    ------
    ConfigError
        The file is missing or broken, lacks a setting, or holds an unknown one or a value that is not allowed.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing; run assay inside a project (a folder with params.yaml and dvc.yaml)")
    raw = parse_yaml(path.read_bytes(), path)
    parse_config(raw, where=path.name)
    return dict(raw)


def parse_config(raw: Any, *, where: str = "params.yaml") -> Config:
    """Check the content of params.yaml; see `read_params`."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} must be a mapping of settings, not {type(raw).__name__}")
    if isinstance(raw.get("detectors"), list):
        raise ConfigError(
            f"{where}: detectors is a list, as in projects of earlier versions of Assay; run `assay migrate`"
        )
    raw = {**DEFAULTS, **raw}
    _check_names(raw, KNOWN, where)
    dataset = raw["dataset"]
    check_name(dataset, f"{where}: dataset")
    eps = check_share(raw["eps"], f"{where}: eps")
    check_value(f"{where}: gate", raw["gate"], Gate)
    detectors = _detectors(raw["detectors"], f"{where}: detectors")
    sections = {name: _section(raw, name, where) for name in SECTIONS}
    _check_default(sections["select"]["without_labels"], detectors, f"{where}: select.without_labels")
    return Config(
        dataset=dataset,
        datasets=_datasets(raw["datasets"], dataset, f"{where}: datasets"),
        eps=eps,
        sections=sections,
        detectors=detectors,
        adapters=_choices(raw["adapters"], f"{where}: adapters"),
        gate=raw["gate"],
    )


def _datasets(raw: Any, current: str, where: str) -> tuple[str, ...]:
    if not isinstance(raw, list):
        raise ConfigError(f"{where} must be a list of names, for instance [{current}]; got {raw!r}")
    for name in raw:
        check_name(name, where)
        if raw.count(name) > 1:
            raise ConfigError(f"{where}: {name!r} occurs twice; name it once")
    if current not in raw:
        raise ConfigError(f"{where} lacks {current!r}, the current dataset; add it (`assay run --dataset` does)")
    return tuple(raw)


def _detectors(raw: Any, where: str) -> tuple[Choice, ...]:
    if not isinstance(raw, Mapping) or not raw:
        raise ConfigError(
            f"{where} must be a mapping of labels, for instance {{knn: {{}}, near: {{detector: knn}}}}, not {raw!r}"
        )
    choices = tuple(parse_detector(label, entry, where) for label, entry in raw.items())
    if missing := [name for name in ALWAYS if name not in {choice.name for choice in choices}]:
        raise ConfigError(f"{where} lacks {missing[0]}, which is in every leaderboard; add a line `{missing[0]}: {{}}`")
    return choices


def parse_detector(label: Any, entry: Any, where: str) -> Choice:
    """Return an entry of ``detectors:``, ``label: {detector: KIND, parameter: value}``.

    Without ``detector`` the label is the kind. A kind with a parameter of the name ``detector``, such as a wrapper, is
    written as a mapping of its own: ``label: {detector: {rescaled: {detector: lof}}}``.
    """
    check_label(label, where)
    entry = {} if entry is None else entry
    if not isinstance(entry, Mapping) or not all(isinstance(name, str) for name in entry):
        raise ConfigError(f"{where}: {label} must be {{detector: KIND, parameter: value}}; got {entry!r}")
    params = dict(entry)
    kind = params.pop(DETECTOR, label)
    if isinstance(kind, Mapping) and len(kind) == 1 and not params:
        ((kind, params),) = kind.items()
        params = {} if params is None else params
    if not isinstance(kind, str) or not isinstance(params, Mapping):
        raise ConfigError(
            f"{where}: {label}.{DETECTOR} must be the name of a detector, or {{name: {{parameter: value}}}} without "
            f"other parameters beside it; got {entry!r}"
        )
    return Choice(kind, label, dict(params))


def _check_names(settings: Mapping[str, Any], allowed: Collection[str], where: str) -> None:
    if unknown := sorted(set(settings) - set(allowed), key=str):
        raise ConfigError(f"{where}: unknown setting {unknown[0]!r}; there are {', '.join(allowed)}")
    if missing := [name for name in allowed if name not in settings]:
        raise ConfigError(
            f"{where} lacks the setting {missing[0]!r}; it needs {', '.join(allowed)} (`assay migrate` adds settings "
            "that are new)"
        )


def _section(raw: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    section, settings = raw[name], SECTIONS[name]
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where}: {name} must be a mapping with {', '.join(settings)}, not {section!r}")
    _check_names(section, settings, f"{where}: {name}")
    for setting, annotation in settings.items():
        check_value(f"{where}: {name}.{setting}", section[setting], annotation)
    return dict(section)


def _check_default(value: str, detectors: tuple[Choice, ...], where: str) -> None:
    """Check the setting for what ships where nobody has labelled anomalies."""
    labels = [choice.label for choice in detectors]
    if value not in (PROBES, *labels):
        raise ConfigError(
            f"{where} is {value!r}; give {PROBES}, or the label of a listed detector: {', '.join(labels)}"
        )


def _choices(raw: Any, where: str) -> tuple[Choice, ...]:
    if not isinstance(raw, list) or not raw:
        raise ConfigError(f"{where} must be a list of names, for instance [none, cadet]; got {raw!r}")
    choices = tuple(_choice(entry, where) for entry in raw)
    labels = [choice.label for choice in choices]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"{where}: {label!r} occurs twice; give one of them another label (label: NAME)")
        check_label(label, where)
    return choices


def _choice(entry: Any, where: str) -> Choice:
    if isinstance(entry, str):
        return Choice(entry, entry)
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, params),) = entry.items()
        if isinstance(name, str) and (params is None or isinstance(params, Mapping)):
            params = dict(params or {})
            label = params.pop("label", name)
            if isinstance(label, str):
                return Choice(name, label, params)
    raise ConfigError(f"{where}: {entry!r} must be a name, or `name: {{parameter: value}}`")
