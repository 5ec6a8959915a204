"""The exceptions that Assay raises on purpose.

A message gives the bad value, what is allowed, and what to do. The command line shows it as one
line and exits with the class's ``exit_code``; only bugs show a traceback.

* AssayError
    + ConfigError (also a ValueError): params.yaml or an argument is wrong
        - PoolTooSmallError: more anomalies asked for than there are
    + DataError (also a ValueError): a dataset or a user's file cannot be used
    + InputError (also a ValueError): rows handed to a scorer do not fit it
        - RequestError: an HTTP request that the service refuses, with its status
    + ValidationFailedError: a Great Expectations suite failed
    + TrainingError: a detector could not be trained
    + NoValidCandidateError: selection found nothing that may ship
    + TamperedError: bytes on disk are not the recorded ones
    + ScorerError: a scorer folder or tag cannot be loaded
        - NotHereError: it is on record, and elsewhere
    + StageError: a stage's inputs are missing or another run holds the project
    + ToolError: a framework's command failed
    + InterruptedRunError: a signal ended a run
    + LedgerError: the ledger or the rows kept for it cannot be used
"""

from __future__ import annotations

from typing import Any


class AssayError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class ConfigError(AssayError, ValueError):
    """A value in params.yaml or an argument is not allowed."""

    exit_code = 2


class PoolTooSmallError(ConfigError):
    """A contamination level needs more anomalies than the injection pool holds."""


class DataError(AssayError, ValueError):
    """A dataset or a user's file cannot be used as it is."""

    exit_code = 2


class InputError(AssayError, ValueError):
    """Rows handed to a scorer do not fit it (shape, dtype, column names, NaN)."""

    exit_code = 2


class RequestError(InputError):
    """An HTTP request that the service refuses: a status, a sentence, and headers of the answer."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class ValidationFailedError(AssayError):
    """A Great Expectations suite failed, so nothing was trained."""

    exit_code = 3

    def __init__(self, message: str, checks: dict[str, list[dict[str, Any]]] | None = None) -> None:
        """Take the sentence, and every check of the validation as plain JSON values, by what was checked."""
        super().__init__(message)
        self.checks = checks or {}


class TrainingError(AssayError):
    """A detector could not be trained to a usable state."""


class NoValidCandidateError(AssayError):
    """Selection found no candidate that may ship."""

    exit_code = 4


class TamperedError(AssayError):
    """Bytes on disk differ from the recorded ones."""

    exit_code = 5


class ScorerError(AssayError):
    """A scorer folder or tag cannot be loaded."""


class NotHereError(ScorerError):
    """A scorer is on record, and its folder was not brought to this machine."""


class StageError(AssayError):
    """A stage cannot run: its inputs are missing, or another run holds the project."""


class ToolError(AssayError):
    """A command of DVC, BentoML or Prefect failed."""


class InterruptedRunError(AssayError):
    """A signal ended a run; the exit code is the one that shells give to a process that the signal ended."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted; the same command goes on from here")
        self.exit_code = 128 + number


class LedgerError(AssayError):
    """The ledger, or the rows kept for it, cannot be used, for instance because a newer version wrote them."""
