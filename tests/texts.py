"""Made-up texts of a few themes, for tests."""

from __future__ import annotations

import numpy as np

THEMES = (
    ("bank", "interest", "rate", "money", "dollar", "loan", "credit"),
    ("ship", "port", "vessel", "cargo", "tanker", "crew", "harbour"),
    ("wheat", "grain", "corn", "harvest", "crop", "farm", "barley"),
)
ODD = ("football", "goal", "match", "coach", "league", "score", "referee")
USUAL = ("with", "and", "from", "company", "week", "year", "report", "new")


def made_up(n: int, themes: tuple[tuple[str, ...], ...] = THEMES, seed: int = 0) -> list[str]:
    """Return n texts, each of one theme and of usual words."""
    rng = np.random.default_rng(seed)
    texts = []
    for number in range(n):
        theme = themes[number % len(themes)]
        words = [rng.choice(theme if rng.random() < 0.7 else USUAL) for _ in range(rng.integers(6, 20))]
        texts.append(" ".join(words).capitalize() + f". {number} of 12!")
    return texts
