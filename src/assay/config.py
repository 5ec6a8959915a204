"""The settings of a run, read from ``params.yaml``; classes elsewhere get plain arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")
ALWAYS = ("knn", "isolation_forest", "mcd")
SECTIONS: dict[str, tuple[str, ...]] = {
    "split": ("seed",),
    "contaminate": ("levels", "source", "seed"),
    "train": ("seed", "device"),
    "select": ("seed",),
}
KNOWN = ("dataset", "eps", *SECTIONS, "detectors", "adapters")


@dataclass(frozen=True, slots=True)
class Choice:
    """One entry of ``detectors:`` or ``adapters:``: a registered name, its arguments, and its label."""

    name: str
    label: str
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that params.yaml says; every setting has to stand there, since DVC watches them there.

    Attributes
    ----------
    dataset : str
        Name of the folder in ``data/``.
    eps : float
        Target false-positive rate of the decisions that candidates are compared by.
    sections : dict
        ``split``, ``contaminate``, ``train`` and ``select``.
    detectors, adapters : tuple of Choice
        In the order of the file; kNN, Isolation Forest and MCD are appended where they are missing.
    """

    dataset: str
    eps: float
    sections: dict[str, dict[str, Any]]
    detectors: tuple[Choice, ...]
    adapters: tuple[Choice, ...]


def read_params(path: Path) -> dict[str, Any]:
    """Read params.yaml, check it as `parse_config` does, and return it as it stands.

    Raises
    ------
    ConfigError
        The file is missing or broken, lacks a setting, or holds an unknown one or a value that is not allowed.
    """
    import yaml

    if not path.is_file():
        raise ConfigError(f"{path} is missing; run assay inside a project (a folder with params.yaml and dvc.yaml)")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    parse_config(raw, where=path.name)
    return dict(raw)


def parse_config(raw: Any, *, where: str = "params.yaml") -> Config:
    """Check the content of params.yaml; see `read_params`."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} must be a mapping of settings, not {type(raw).__name__}")
    _check_names(raw, KNOWN, where)
    dataset, eps = raw["dataset"], raw["eps"]
    if not isinstance(dataset, str) or not dataset:
        raise ConfigError(f"{where}: dataset is {dataset!r}; give the name of a dataset, for instance digits")
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
        raise ConfigError(f"{where}: eps is {eps!r}; it must be a number between 0 and 1, for instance 0.05")
    detectors = _choices(raw["detectors"], f"{where}: detectors")
    named = {choice.name for choice in detectors}
    detectors += tuple(Choice(name, name) for name in ALWAYS if name not in named)
    sections = {name: _section(raw, name, where) for name in SECTIONS}
    if sections["train"]["device"] not in DEVICES:
        raise ConfigError(f"{where}: train.device is {sections['train']['device']!r}; use one of {', '.join(DEVICES)}")
    return Config(
        dataset=dataset,
        eps=float(eps),
        sections=sections,
        detectors=detectors,
        adapters=_choices(raw["adapters"], f"{where}: adapters"),
    )


def _check_names(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := sorted(set(given) - set(known), key=str):
        raise ConfigError(f"{where}: unknown setting {unknown[0]!r}; there are {', '.join(known)}")
    if missing := [name for name in known if name not in given]:
        raise ConfigError(f"{where} lacks the setting {missing[0]!r}; it needs {', '.join(known)}")


def _section(raw: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    given = raw[name]
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: {name} must be a mapping with {', '.join(SECTIONS[name])}, not {given!r}")
    _check_names(given, SECTIONS[name], f"{where}: {name}")
    section = dict(given)
    seed = section["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"{where}: {name}.seed is {seed!r}; it must be a whole number >= 0")
    return section


def _choices(raw: Any, where: str) -> tuple[Choice, ...]:
    if not isinstance(raw, list) or not raw:
        raise ConfigError(f"{where} must be a list of names, for instance [{', '.join(ALWAYS)}]; got {raw!r}")
    choices = tuple(_choice(entry, where) for entry in raw)
    labels = [choice.label for choice in choices]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"{where}: {label!r} stands twice; give one of them a label of its own (label: NAME)")
        if not label.replace("_", "").replace("-", "").isalnum():
            raise ConfigError(f"{where}: label {label!r} may hold letters, digits, - and _ only")
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
