"""Names of datasets and candidates: their form, and the reserved ones."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from assay.errors import ConfigError

NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,58}[a-z0-9])?")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
RESERVED_LABELS = ("scaler", "null_model", "failures", "strata")
RESERVED_NAMES = ("package", "scorers", "code")
CONTROL = r"[\x00-\x1f\x7f]"  # characters that no text of a row may hold
BETWEEN = "--"  # stands between dataset and detector in the name of a cell


@dataclass(frozen=True, slots=True)
class Choice:
    """One entry of ``detectors:`` or ``adapters:``: a registered name, its arguments, and its label."""

    name: str
    label: str
    params: dict[str, Any] = field(default_factory=dict)


def check_name(name: Any, subject: str) -> None:
    """Raise `ConfigError` unless `name` can name a dataset, its folders and its BentoML model.

    `subject` begins the message.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED_NAMES or BETWEEN in name:
        raise ConfigError(
            f"{subject} is {name!r}; use up to 60 lower-case letters, digits, '-' and '_', with a letter or digit at "
            f"both ends, without {BETWEEN!r}, and not {', '.join(RESERVED_NAMES)}"
        )


def check_label(label: Any, subject: str) -> None:
    """Raise `ConfigError` unless `label` can name a detector or an adapter, its files and its cells in dvc.yaml."""
    if not isinstance(label, str) or not LABEL.fullmatch(label) or label in RESERVED_LABELS or BETWEEN in label:
        raise ConfigError(
            f"{subject}: label {label!r} is not allowed; use letters, digits, '-' and '_', a letter or digit first, "
            f"without {BETWEEN!r}, and none of {', '.join(RESERVED_LABELS)}"
        )


def cell_name(dataset: str, detector: str) -> str:
    """Return the name of a cell: what one detector, by its label, makes of one dataset."""
    return f"{dataset}{BETWEEN}{detector}"
