"""Results of verification: one finding for each check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from assay.errors import AssayError
from assay.scorer.statement import sealed_tag

NOT_HERE = "not here"
LIMITS = (
    "not detectable: a change of the log's last entry, and a cut of entries after its newest deployed label by "
    "whoever changes events.head too",
    "not detectable: a chain forged as a whole, log, dvc.lock, Bento and all; compare with Git commits kept elsewhere",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: its subject, the state "ok", "superseded", "not here" or "differs", and details."""

    what: str
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """All findings on one scorer (`tag`) and one statement of it; "" where none could be read."""

    tag: str
    items: tuple[Finding, ...]
    statement: str = ""

    @property
    def intact(self) -> bool:
        """Whether everything is here and nothing differs."""
        return not any(finding.state in ("differs", NOT_HERE) for finding in self.items)

    @property
    def verdict(self) -> str:
        """In words, whether anything differs or is not here."""
        counts = {state: sum(finding.state == state for finding in self.items) for state in ("differs", NOT_HERE)}
        if counts["differs"]:
            return f"{counts['differs']} differ"
        return f"nothing differs, {counts[NOT_HERE]} not here" if counts[NOT_HERE] else "intact"

    def lines(self) -> list[str]:
        """Return one line for each finding, the limits of verification, and a summary."""
        text = [
            f"{finding.state:<11}{finding.what}" + (f": {finding.detail}" if finding.detail else "")
            for finding in self.items
        ]
        return [*text, *LIMITS, f"{sealed_tag(self.tag, self.statement)}: {self.verdict}"]

    def to_json(self) -> dict[str, Any]:
        """Return the findings as plain JSON values."""
        findings = [{"what": finding.what, "state": finding.state, "detail": finding.detail} for finding in self.items]
        subject = {"scorer": self.tag, "statement": self.statement or None}
        return {**subject, "intact": self.intact, "findings": findings, "limits": list(LIMITS)}


CheckResult = tuple[str, str]
INTACT: CheckResult = ("ok", "")


def run_check(subject: str, check: Callable[[], CheckResult]) -> Finding:
    """Run a check; a file that cannot be read counts as differing and does not stop the other checks."""
    try:
        state, detail = check()
    except (AssayError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        state, detail = (
            "differs",
            str(error) if isinstance(error, AssayError | OSError) else f"cannot be read: {error!r}",
        )
    return Finding(subject, state, detail)


def differ(messages: list[str]) -> CheckResult:
    return ("differs", "; ".join(messages)) if messages else INTACT
