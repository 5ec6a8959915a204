"""What an audit finds: one finding for each thing that was looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from assay.errors import AssayError

LIMITS = (
    "not to be seen: a change of the log's last entry, and a cut of entries after its newest deployed label",
    "not to be seen: a chain forged as a whole, log, dvc.lock, Bento and all; Git commits kept elsewhere tell",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what it is, "ok", "differs" or "superseded", and the details."""

    what: str
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """All findings on one scorer."""

    tag: str
    found: tuple[Finding, ...]

    @property
    def intact(self) -> bool:
        """True if nothing differs."""
        return all(finding.state != "differs" for finding in self.found)

    def lines(self) -> list[str]:
        """One line for each finding, what no finding can tell, and one that sums them up."""
        words = [f"{f.state:<11}{f.what}" + (f": {f.detail}" if f.detail else "") for f in self.found]
        wrong = sum(f.state == "differs" for f in self.found)
        return [*words, *LIMITS, f"{self.tag}: {'intact' if self.intact else f'{wrong} differ'}"]

    def to_json(self) -> dict[str, Any]:
        """Return the findings as plain JSON values."""
        found = [{"what": f.what, "state": f.state, "detail": f.detail} for f in self.found]
        return {"scorer": self.tag, "intact": self.intact, "findings": found, "limits": list(LIMITS)}


CheckResult = tuple[str, str]
INTACT: CheckResult = ("ok", "")


def look(what: str, check: Callable[[], CheckResult]) -> Finding:
    """Make a finding of a check; what cannot even be read differs, and hides no other finding."""
    try:
        state, detail = check()
    except (AssayError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        state, detail = (
            "differs",
            str(error) if isinstance(error, AssayError | OSError) else f"cannot be read: {error!r}",
        )
    return Finding(what, state, detail)


def differ(words: list[str]) -> CheckResult:
    return ("differs", "; ".join(words)) if words else INTACT
