"""What to ask people about training rows: groups apart from the bulk, and single rows, each in plain words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assay.arrays import Doubles, Flags
from assay.data.answers import BAD, GROUP, ROW, TRAIN, answers_path, read_row_answers
from assay.data.card import Card, read_card
from assay.data.dataset import RowSet, read_rows
from assay.data.quarantine import is_listed, quarantine_path, read_quarantine
from assay.data.splitting import EXCLUDED
from assay.detectors.baselines.groups import Item, worth_a_look
from assay.errors import DataError, StageError
from assay.hashing import hash_bytes
from assay.pipeline.rows import joined, verified
from assay.project.freshness import check_outputs
from assay.project.layout import Project

SHOWN_COLUMNS, SHOWN_ROWS, DIFFERENCES = 8, 3, 3
_REMARKABLE = 1.5  # standard deviations of the bulk
_LONGEST = 40
_UNBOUNDED = 99.0  # where the bulk has one value alone
_NORMAL_50, _NORMAL_90 = 1.35, 3.29  # standard deviations that hold the middle 50 % and 90 % of a normal distribution


@dataclass(frozen=True, slots=True)
class Contrast:
    """How a column of some rows differs from the bulk.

    Attributes
    ----------
    column : str
    words : str
        With values in the units of the user's file.
    effect : float
        In standard deviations of the bulk.
    spans : tuple of ((float, float, float), (float, float, float)) or None
        5 % quantile, median and 95 % quantile of the bulk and of the rows, as shares of the range of both; None for
        categories.
    """

    column: str
    words: str
    effect: float
    spans: tuple[tuple[float, float, float], tuple[float, float, float]] | None


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """A group of training rows, or a single one, to be judged: good, bad or unsure.

    Attributes
    ----------
    number : int
    asked : {"group", "row"}
    why : str
        Why it is asked, in a sentence.
    sentence : str
        In which columns it differs from the bulk.
    differences : list of Contrast
    columns : list of str
        The columns shown.
    typical, extreme : list of (str, list of str)
        Ids of rows with their values in these columns.
    pictures : list of ndarray of uint8
        Of images: the same rows.
    rows : DataFrame
        ``fingerprint``, ``copy`` and ``row_id`` of all its rows.
    """

    number: int
    asked: str
    why: str
    sentence: str
    differences: list[Contrast]
    columns: list[str]
    typical: list[tuple[str, list[str]]]
    extreme: list[tuple[str, list[str]]]
    pictures: list[NDArray[np.uint8]]
    rows: pd.DataFrame

    @property
    def name(self) -> str:
        """The same for the same rows, and for no others."""
        return hash_bytes(self.rows.to_csv(index=False).encode())[:12]

    @property
    def title(self) -> str:
        """What it is about."""
        return f"{len(self.rows)} rows" if self.asked == GROUP else f"row {self.rows['row_id'].iloc[0]}"


def questions_of(project: Project, *, budget: int) -> list[ReviewItem]:
    """Return the groups of training rows, and then the single rows, that are most worth an answer now.

    Rows that were answered before are not asked about again, and bad ones are left out, whether a run has been made
    since or not. Nothing but training rows is read.

    Raises
    ------
    StageError
        The dataset has not been split yet.
    DataError
        It is a dataset of texts.
    """
    project.require_dataset(project.dataset)
    card = read_card(project.data)
    if card.text_column is not None:
        raise DataError(
            f"{card.name} is a dataset of texts, which `assay review` does not compare; `assay audit suspects` lists "
            "the training rows that a detector suspects"
        )
    answers = read_row_answers(answers_path(project.root, project.dataset))
    rows = training_rows_of(project, answers)
    bad = is_listed(answers[answers["answer"] == BAD], rows.rows)
    scaled = card.scaler().fit(rows.features[~bad]).transform(rows.features)
    groups, singles = worth_a_look(
        scaled,
        answered=is_listed(answers, rows.rows) | verified(rows),
        bad=bad,
        budget=budget,
        seed=project.config.sections["split"]["seed"],
    )
    asked = [(GROUP, item) for item in groups] + [(ROW, item) for item in singles]
    return [_question(number, kind, item, rows, bad, card) for number, (kind, item) in enumerate(asked, start=1)]


def training_rows_of(project: Project, answers: pd.DataFrame) -> RowSet:
    """Return the training rows of the last split, and those that it left out because they were answered bad.

    The latter stay when they were given another answer since.

    Raises
    ------
    StageError
        The dataset has not been split yet.
    """
    (stage,) = project.stages_of("split")
    if check_outputs(project, stage.name) is None:
        raise StageError(
            f"the rows of {project.dataset} have no roles yet; run `assay run --dataset {project.dataset}`"
        )
    folder = project.folder("split")
    train, left_out = read_rows(folder / TRAIN), read_rows(folder / EXCLUDED)
    quarantined = read_quarantine(quarantine_path(project.root, project.dataset))
    return joined(train, left_out.take(is_listed(answers, left_out.rows) & ~is_listed(quarantined, left_out.rows)))


def _question(number: int, asked: str, item: Item, rows: RowSet, bad: Flags, card: Card) -> ReviewItem:
    others = ~bad
    others[item.rows] = False
    bulk, own = rows.features[others], rows.features[item.rows]
    differences = sorted(_differences(own, bulk, card), key=lambda difference: -difference.effect)[:DIFFERENCES]
    far = item.rows[: -1 - min(SHOWN_ROWS, len(item.rows) - 1) : -1] if asked == GROUP else item.rows[:0]
    near = item.rows[: min(SHOWN_ROWS, len(item.rows) - len(far))]
    first = [difference.column for difference in differences]
    columns = [*first, *(name for name in card.columns if name not in first)][:SHOWN_COLUMNS]
    shown = [*near, *far]
    values = _values(rows.features[shown], columns, card)
    named = [(str(rows.rows["row_id"].iloc[place]), cells) for place, cells in zip(shown, values, strict=True)]
    return ReviewItem(
        number=number,
        asked=asked,
        why=_why(asked, item, len(rows.rows) - int(bad.sum())),
        sentence=_sentence(differences),
        differences=differences,
        columns=columns,
        typical=named[: len(near)],
        extreme=named[len(near) :],
        pictures=_pictures(rows.features, shown, card),
        rows=rows.rows.iloc[item.rows][["fingerprint", "copy", "row_id"]].astype("str"),
    )


def _why(asked: str, item: Item, n: int) -> str:
    times = f"{item.distance / item.usual:.1f} times the usual distance" if item.usual > 0 else "a distance"
    if asked == GROUP:
        return f"{len(item.rows)} of {n} training rows lie together, {times} from the others"
    return f"its 5th nearest training row is at {times}" + (", and bad rows are near" if item.near_bad else "")


def _sentence(differences: list[Contrast]) -> str:
    remarkable = [difference.words for difference in differences if difference.effect >= _REMARKABLE]
    if not remarkable:
        return "No single column is out of the ordinary; how columns go together is."
    return f"It differs in {'; '.join(remarkable)}."


def _differences(own: Doubles, bulk: Doubles, card: Card) -> list[Contrast]:
    return [
        difference
        for place, name in enumerate(card.columns)
        for difference in [
            _of_missing(name, own[:, place], bulk[:, place]),
            _of_category(name, own[:, place], bulk[:, place], card.vocabulary[name])
            if name in card.vocabulary
            else _of_number(name, own[:, place], bulk[:, place], is_date=name in card.dates),
        ]
        if difference is not None
    ]


def _of_missing(name: str, own: Doubles, bulk: Doubles) -> Contrast | None:
    here, elsewhere = float(np.isnan(own).mean()), float(np.isnan(bulk).mean())
    if here <= elsewhere:
        return None
    return Contrast(
        name,
        f"{name}: missing in {_percent(here)} (elsewhere in {_percent(elsewhere)})",
        _of_shares(here, elsewhere),
        None,
    )


def _of_category(name: str, own: Doubles, bulk: Doubles, texts: tuple[str, ...]) -> Contrast | None:
    if np.isnan(own).all() or np.isnan(bulk).all():
        return None
    codes, counts = np.unique(own[~np.isnan(own)], return_counts=True)
    code = codes[counts.argmax()]
    here, elsewhere = float((own == code).mean()), float((bulk == code).mean())
    words = f"{name}: {_short(texts[int(code)])} in {_percent(here)} (elsewhere in {_percent(elsewhere)})"
    return Contrast(name, words, _of_shares(here, elsewhere), None)


def _of_shares(here: float, elsewhere: float) -> float:
    return max(0.0, here - elsewhere) / float(np.sqrt(max(elsewhere * (1 - elsewhere), 0.01)))


def _of_number(name: str, own: Doubles, bulk: Doubles, *, is_date: bool) -> Contrast | None:
    here, elsewhere = (
        np.nanquantile(each, [0.05, 0.5, 0.95]) if not np.isnan(each).all() else None for each in (own, bulk)
    )
    if here is None or elsewhere is None:
        return None
    lower, upper = np.nanquantile(bulk, [0.25, 0.75])  # which rows of other odd kinds in the bulk do not move
    spread = (upper - lower) / _NORMAL_50 or (elsewhere[2] - elsewhere[0]) / _NORMAL_90 or float(np.nanstd(bulk))
    apart = abs(here[1] - elsewhere[1])
    effect = min(apart / spread, _UNBOUNDED) if spread > 0 else _UNBOUNDED * (apart > 0)
    low, high = min(here[0], elsewhere[0]), max(here[2], elsewhere[2])
    width = high - low or 1.0
    spans = tuple(tuple((quantiles - low) / width) for quantiles in (elsewhere, here))
    value, middle, least, most = (
        _text(number, is_date=is_date) for number in (here[1], elsewhere[1], elsewhere[0], elsewhere[2])
    )
    words = f"{name}: {value} (elsewhere {middle}, 90 % from {least} to {most})"
    return Contrast(name, words, float(effect), spans)  # type: ignore[arg-type]


def _text(number: float, *, is_date: bool = False) -> str:
    if is_date:
        return str(np.datetime64(round(number), "s"))
    return f"{number:.0f}" if number == round(number) and abs(number) < 1e9 else f"{number:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _values(features: Doubles, columns: list[str], card: Card) -> list[list[str]]:
    table = card.table(features)[columns]
    return [
        [
            "" if value is None or value != value else _short(value) if isinstance(value, str) else _text(value)
            for value in row
        ]
        for row in table.itertuples(index=False, name=None)
    ]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _pictures(features: Doubles, places: list[int], card: Card) -> list[NDArray[np.uint8]]:
    """Return the rows as pictures where they are images, from the smallest value of all to the largest."""
    if card.modality.name != "image":
        return []
    low, high = float(features.min()), float(features.max())
    grey = np.round((features[places] - low) / (high - low or 1.0) * 255).astype(np.uint8)
    return list(grey.reshape(len(places), *(card.modality.shape or ())))
