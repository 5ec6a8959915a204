"""Anomaly scorers that say what they mean, and which rows they learned from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from assay.scorer.scorer import Scorer

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def load(tag_or_folder: str | Path) -> Scorer:
    """Load a packaged scorer; needs neither Prefect nor DVC nor BentoML.

    Parameters
    ----------
    tag_or_folder : str or Path
        ``name:version``, with ``-statement`` after it or not; ``name`` for the champion of that name; or a scorer
        folder.

    Returns
    -------
    Scorer
        With ``decision_function(X)``, ``p_values(X)`` and ``predict(X, eps=0.05)``.

    Raises
    ------
    ScorerError
        There is no such scorer.
    TamperedError
        A file of it was changed.
    """
    from assay.project.scorers import find_packaged
    from assay.scorer.loading import load_scorer

    packaged = find_packaged(tag_or_folder)
    return load_scorer(packaged.folder, packaged.statement.id)


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"module 'assay' has no attribute {name!r}; it has {', '.join(__all__)}")
