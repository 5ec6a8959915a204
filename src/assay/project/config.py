"""The settings of a run, read from ``params.yaml``; classes elsewhere get plain arguments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt, Predicate

from assay.errors import ConfigError
from assay.names import LABEL, RESERVED_LABELS, Choice, check_name
from assay.parameters import Device, Says, Seed, check_share, check_value
from assay.parts import parse_yaml

ALWAYS = ("knn", "isolation_forest", "mcd")
Levels = Annotated[
    tuple[float, ...],
    Predicate(lambda levels: len({f"{rho:g}" for rho in levels}) == len(levels)),
    Says("a list of different numbers, for instance [0, 0.05, 0.1]"),
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
        "seed": Seed,
    },
    "select": {"seed": Seed},
}
KNOWN = ("dataset", "eps", *SECTIONS, "detectors", "adapters")


@dataclass(frozen=True, slots=True)
class Config:
    """The content of params.yaml. Every setting has to be in the file, since DVC tracks changes there.

    Attributes
    ----------
    dataset : str
        Name of the folder in ``data/``.
    eps : float
        Target false-positive rate of the decisions that candidates are compared by.
    sections : dict
        ``split``, ``contaminate``, ``train``, ``calibrate`` and ``select``.
    detectors, adapters : tuple of Choice
        In the order of the file; kNN, Isolation Forest and MCD are appended where they are missing.
    """

    dataset: str
    eps: float
    sections: dict[str, dict[str, Any]]
    detectors: tuple[Choice, ...]
    adapters: tuple[Choice, ...]


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
    _check_names(raw, KNOWN, where)
    dataset, eps = raw["dataset"], raw["eps"]
    check_name(dataset, f"{where}: dataset")
    eps = check_share(eps, f"{where}: eps")
    return Config(
        dataset=dataset,
        eps=eps,
        sections={name: _section(raw, name, where) for name in SECTIONS},
        detectors=_choices(raw["detectors"], f"{where}: detectors", always=ALWAYS),
        adapters=_choices(raw["adapters"], f"{where}: adapters"),
    )


def _check_names(settings: Mapping[str, Any], allowed: Collection[str], where: str) -> None:
    if unknown := sorted(set(settings) - set(allowed), key=str):
        raise ConfigError(f"{where}: unknown setting {unknown[0]!r}; there are {', '.join(allowed)}")
    if missing := [name for name in allowed if name not in settings]:
        raise ConfigError(f"{where} lacks the setting {missing[0]!r}; it needs {', '.join(allowed)}")


def _section(raw: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    section, settings = raw[name], SECTIONS[name]
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where}: {name} must be a mapping with {', '.join(settings)}, not {section!r}")
    _check_names(section, settings, f"{where}: {name}")
    for setting, annotation in settings.items():
        check_value(f"{where}: {name}.{setting}", section[setting], annotation)
    return dict(section)


def _choices(raw: Any, where: str, always: tuple[str, ...] = ()) -> tuple[Choice, ...]:
    if not isinstance(raw, list) or not raw:
        raise ConfigError(f"{where} must be a list of names, for instance [{', '.join(ALWAYS)}]; got {raw!r}")
    choices = tuple(_choice(entry, where) for entry in raw)
    choices += tuple(Choice(name, name) for name in always if name not in {choice.name for choice in choices})
    labels = [choice.label for choice in choices]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"{where}: {label!r} occurs twice; give one of them another label (label: NAME)")
        if not LABEL.fullmatch(label) or label in RESERVED_LABELS:
            raise ConfigError(
                f"{where}: label {label!r} is not allowed; use letters, digits, '-' and '_', and none of "
                f"{', '.join(RESERVED_LABELS)}"
            )
    return choices


def _label(name: str) -> str:
    """Return the default label of an entry: its name, or the last part of a path."""
    return name.rpartition(".")[2]


def _choice(entry: Any, where: str) -> Choice:
    if isinstance(entry, str):
        return Choice(entry, _label(entry))
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, params),) = entry.items()
        if isinstance(name, str) and (params is None or isinstance(params, Mapping)):
            params = dict(params or {})
            label = params.pop("label", _label(name))
            if isinstance(label, str):
                return Choice(name, label, params)
    raise ConfigError(f"{where}: {entry!r} must be a name, or `name: {{parameter: value}}`")
