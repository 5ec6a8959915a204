"""Results of verification: one finding for each check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from assay.errors import AssayError
from assay.scorer.statement import sealed_tag

NOT_HERE, UNCHECKED = "not here", "unchecked"
DIFFERS_CODE, UNCHECKED_CODE = 1, 6
LIMITS = (
    "not detectable: a change of the log's last entry, and a cut of entries after its newest deployed label by "
    "whoever changes events.head too",
    "not detectable: a chain forged as a whole, log, dvc.lock, Bento and all; compare with Git commits kept elsewhere",
)
SEALED_LIMIT = (
    "whoever may write here but has no key that counts can add entries after {covers} and scorers that no seal names, "
    "and can take seals away, so expect this one; they cannot change what is up to there, nor a sealed statement or "
    "its scorer, without this command telling, as long as the keys are those that you know: they can add their own to "
    "{signers} (keep it elsewhere too: --signers FILE)"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: its subject, its state, and details.

    States are "ok"; "superseded", replaced since by what is on record, and intact where it is kept; "not here", to be
    fetched; "unchecked", where the recorded bytes are kept nowhere, so that nothing can be compared; and "differs".
    """

    what: str
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """All findings on one scorer (`tag`) and one statement of it; "" where none could be read."""

    tag: str
    items: tuple[Finding, ...]
    statement: str = ""
    limits: tuple[str, ...] = LIMITS

    @property
    def intact(self) -> bool:
        """Whether everything is here and nothing differs."""
        return self.exit_code() == 0

    @property
    def verdict(self) -> str:
        """In words, whether anything differs or is not here."""
        counts = Counter(finding.state for finding in self.items)
        if counts["differs"]:
            return f"{counts['differs']} differ"
        words = {NOT_HERE: NOT_HERE, UNCHECKED: "could not be checked"}
        lacking = [f"{counts[state]} {word}" for state, word in words.items() if counts[state]]
        return ", ".join(["nothing differs", *lacking]) if lacking else "intact"

    def exit_code(self, *, strict: bool = False) -> int:
        """Return 1 if anything differs, 6 if nothing does but something could not be checked (strict: 1), else 0."""
        states = {finding.state for finding in self.items}
        if "differs" in states:
            return DIFFERS_CODE
        lacking = DIFFERS_CODE if strict else UNCHECKED_CODE
        return lacking if states & {NOT_HERE, UNCHECKED} else 0

    def lines(self) -> list[str]:
        """Return one line for each finding, the limits of verification, and a summary."""
        text = [
            f"{finding.state:<11}{finding.what}" + (f": {finding.detail}" if finding.detail else "")
            for finding in self.items
        ]
        return [*text, *self.limits, f"{sealed_tag(self.tag, self.statement)}: {self.verdict}"]

    def to_json(self) -> dict[str, Any]:
        """Return the findings as plain JSON values."""
        findings = [{"what": finding.what, "state": finding.state, "detail": finding.detail} for finding in self.items]
        subject = {"scorer": self.tag, "statement": self.statement or None}
        return {**subject, "intact": self.intact, "findings": findings, "limits": list(self.limits)}


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
