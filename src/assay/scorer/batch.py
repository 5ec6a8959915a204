"""Scoring of a file: every row gets a score, a p-value and a decision, block by block."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.arrays import Doubles, Flags, Singles
from assay.calibration.decisions import BY_ID, Rule
from assay.calibration.tally import Tally
from assay.console import counted_progress, say
from assay.data.blocks import VALUES_AT_ONCE, Blocks, Unchanged, counted_from, open_blocks
from assay.data.columns import features_of
from assay.data.dialects import OBSERVED, Dialect
from assay.data.files import texts_of
from assay.data.headers import check_names
from assay.data.image_datasets import NAME_OF_FILE, ImageBlocks, holds_images
from assay.data.words import MOST_WORDS
from assay.environment import n_processors
from assay.errors import AssayError, DataError, InputError
from assay.hashing import hash_json
from assay.scorer.explaining import normal_rows, pieces_of
from assay.scorer.explaining_images import first_tiles, hottest_places
from assay.scorer.folder import ANSWERS
from assay.scorer.resuming import RESUMABLE_ROWS, JudgedRows, KeptBlocks
from assay.scorer.scorer import Scorer
from assay.scorer.writing import row_writer

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ADDED = ("score", "p_value", "flagged")
EXPLAINED = ("because", "p_without_first")
EXPLAINED_AT_ONCE = 50
DELTA = 0.1


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """What came of scoring a file.

    Attributes
    ----------
    n_rows, n_flagged : int
    rule : Rule
        The rule that flagged the rows.
    false_alarms : int or None
        Upper bound, with probability at least .9 over draws of calibration rows and batch, on the number of normal rows
        among the flagged ones, for any rule; None if the scorer's p-values allow no such bound.
    note : str
        Why nothing could be flagged, or "".
    """

    n_rows: int
    n_flagged: int
    rule: Rule
    false_alarms: int | None
    note: str


def score_file(
    scorer: Scorer,
    path: Path,
    out: Path,
    *,
    eps: float | None = None,
    fdr: float | None = None,
    id_column: str | None = None,
    explain: int = 0,
    dialect: Dialect = OBSERVED,
) -> ScoredFile:
    """Score the rows of a CSV or Parquet file and decide by `eps` (the scorer's own where both are None) or `fdr`.

    The rows are read, judged and written in blocks: memory does not grow with their number, except for some 30 bytes a
    row with `fdr`, which is decided over the whole file and reads it twice. The result is that of all rows at once.

    Parameters
    ----------
    scorer : Scorer
    path : Path
        See `assay.data.blocks.read_frame`; or images (`assay.data.image_datasets.ImageBlocks`), for a scorer of images.
    out : Path
        A .csv or .parquet file, there only once it is whole: the file's columns that are not features, unchanged, then
        score, p_value and flagged; with explanations also, for flagged rows, because (columns with their shares of what
        raises the score) and p_without_first (`assay.scorer.explaining.Explanation.p_without`); of texts only because:
        the nearest context, where the detector has contexts, and words (`assay.scorer.explaining_words.ReadDocument`);
        of images, by a detector with heat maps, the hottest places, by any other one tiles.
    eps, fdr : float, optional
    id_column : str, optional
        Ids of rows, which decide ties where these are randomised (`assay.scorer.scorer.Scorer.judge`).
    explain : int
        The number of columns, or of words, that are named for each flagged row.
    dialect : Dialect
        How a CSV file is written.

    Raises
    ------
    ConfigError
        `eps` or `fdr` is not a number between 0 and 1.
    DataError, InputError
        The file cannot be read or lacks a column; a value is missing; false discoveries cannot be controlled; this
        scorer explains nothing.
    """
    rule = scorer.rule(eps=eps, fdr=fdr)
    if (windows := scorer.windows) is not None:
        if id_column is not None:
            raise InputError(f"--id {id_column} is for rows, and this scorer takes a file of series; leave it out")
        from assay.scorer.series_batch import score_steps

        n_steps, n_flagged = score_steps(scorer, windows, path, out, rule, explain=explain, dialect=dialect)
        return ScoredFile(n_steps, n_flagged, rule, None, rule.note(n_steps, n_flagged, scorer.calibrator))
    file = FileOfRows(scorer, path, id_column, dialect, added_columns(scorer, explain))
    tally = Tally(scorer.reference.sizes)
    passes = 1 if rule.fdr is None else 2
    with (
        counted_progress(path.name, passes * file.blocks.n_rows) as count,
        file.kept_blocks(out) as kept,
        row_writer(out, file.types_of_result) as writer,
        file.unchanged,
    ):
        if kept is not None and kept.n_rows:
            say(f"{out.name}: {kept.n_rows} rows were judged before; a command like this one was cut off")
        for rows, judged, flags in _judged_by(rule, file, count, kept):
            tally.add(judged.compared, flags)
            writer.write(result_of(scorer, rows, judged, flags, explain))
    note = rule.note(tally.n_rows, tally.n_chosen, scorer.calibrator)
    return ScoredFile(tally.n_rows, tally.n_chosen, rule, tally.bound(DELTA), note)


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows of a file that begin at `start`.

    Attributes
    ----------
    start : int
    others : DataFrame
        Their columns that are not features.
    features : ndarray or DataFrame
        As the scorer takes them.
    categories, row_ids : list of str, or None
    """

    start: int
    others: pd.DataFrame
    features: Any
    categories: list[str] | None
    row_ids: list[str] | None


class FileOfRows:
    """A file of rows for a scorer; or `only` one Parquet file of a folder of them, as it is in the whole."""

    def __init__(
        self,
        scorer: Scorer,
        path: Path,
        id_column: str | None,
        dialect: Dialect,
        added: tuple[str, ...],
        only: Path | None = None,
    ) -> None:
        self._scorer, self._path, self._id_column, self._added = scorer, path, id_column, added
        self._dialect = dialect
        self.unchanged = Unchanged(path)
        self._texts = [name for name in (scorer.category_column, id_column) if name is not None]
        of_text = (*scorer.vocabulary, *scorer.dates, *scorer.texts)
        numbers = [name for name in scorer.columns if name not in of_text]
        self.blocks: Blocks
        if holds_images(path):
            self.blocks = ImageBlocks(path, scorer.columns)
            check_names(path, [NAME_OF_FILE], self._texts)
        else:
            self.blocks = open_blocks(path, self._texts, numbers=numbers, dialect=dialect, only=only)
        names = list(self.blocks.types)
        if missing := [name for name in scorer.columns if name not in self.blocks.types]:
            raise DataError(
                f"{path.name} has no column {missing[0]!r}; this scorer needs all of its columns in the file"
            )
        of_scorer = set(scorer.columns)
        if taken := [name for name in added if name in names and name not in of_scorer]:
            raise DataError(
                f"{path.name} has a column {taken[0]!r} already; rename it, that name is given to the result"
            )
        self._others = [name for name in names if name not in of_scorer]

    @property
    def types_of_result(self) -> dict[str, pa.DataType]:
        """The columns of the result and the types that they are stored as in a Parquet file."""
        import pyarrow as pa

        of_added = (pa.float32(), pa.float64(), pa.int8(), pa.string(), pa.float64())
        added = dict(zip((*ADDED, *EXPLAINED), of_added, strict=True))
        return {name: self.blocks.types[name] for name in self._others} | {name: added[name] for name in self._added}

    def rows(self) -> Iterator[RowBlock]:
        """Yield the rows, checked, block by block."""
        start = self.blocks.start
        for frame in self.blocks.frames(self._rows_at_once()):
            with counted_from(start):
                rows = self._checked(frame, start)
            yield rows
            start += len(frame)

    def judge(self, rows: RowBlock) -> JudgedRows:
        """Score rows and compare them with the calibration rows."""
        with counted_from(rows.start):
            scored = self._scorer.scored(rows.features, rows.categories, rows.row_ids)
            return JudgedRows(scored.scores, self._scorer.reference.compare(scored))

    @contextmanager
    def kept_blocks(self, out: Path) -> Iterator[KeptBlocks | None]:
        """Keep what was judged of a large file beside its result, under a hidden name, until that is whole."""
        if self.blocks.n_rows < RESUMABLE_ROWS:
            yield None
            return
        scorer = self._scorer
        judged_as = [scorer.tag, ANSWERS, self._id_column]
        of_file = [str(self._path.resolve()), asdict(self._dialect), self.unchanged.states, self.blocks.n_rows]
        with KeptBlocks(out.with_name(f".{out.name}.judged"), hash_json([*judged_as, *of_file])) as kept:
            yield kept

    def check_ids(self, rule: Rule, row_ids: list[str]) -> None:
        """Raise `InputError` where the ids of the whole file do not allow the decision."""
        self._scorer.check_batch_ids(rule, row_ids or None)

    @property
    def needs_ids(self) -> bool:
        """Whether ids decide ties."""
        return self._id_column is not None and self._scorer.reference.ties == BY_ID

    def _rows_at_once(self) -> int:
        """Return the number of rows in a block: all, where what ids or categories are depends on all of a column."""
        import pyarrow as pa

        kinds = [self.blocks.types[name] for name in self._texts]
        if any(pa.types.is_timestamp(kind) or pa.types.is_duration(kind) for kind in kinds):
            return self.blocks.n_rows
        return max(1, VALUES_AT_ONCE // max(len(self.blocks.types), MOST_WORDS if self._scorer.texts else 1))

    def _checked(self, frame: pd.DataFrame, start: int) -> RowBlock:
        scorer, category = self._scorer, self._scorer.category_column
        kept = scorer.categories or ()
        categories = None if category is None else texts_of(frame[category], kept=kept).tolist()
        row_ids = None if self._id_column is None else texts_of(frame[self._id_column]).tolist()
        if scorer.texts:
            return RowBlock(start, frame[self._others], frame[[*scorer.texts]], categories, row_ids)
        features = features_of(frame, scorer.columns, scorer.vocabulary, scorer.dates)
        usable = np.isfinite(features.rows) | (np.isnan(features.rows) & np.isin(scorer.columns, scorer.imputed))
        if not usable.all():
            row, column = np.argwhere(~usable)[0]
            where = f"{self._path.name}, row {row}, column {scorer.columns[column]!r}"
            raise InputError(f"{where}: missing or infinite, which this column may not be; correct it, or take it out")
        given = features.table() if features.vocabulary or features.dates else features.rows
        return RowBlock(start, frame[self._others], given, categories, row_ids)


def result_of(scorer: Scorer, rows: RowBlock, judged: JudgedRows, flags: Flags, explain: int) -> pd.DataFrame:
    """Return rows as `score_file` writes them."""
    with counted_from(rows.start):
        result = rows.others.assign(score=judged.scores, p_value=judged.compared.p_values)
        result["flagged"] = flags.astype(np.int8)
        return result.assign(**_reasons(scorer, rows, flags, explain)) if explain else result


def added_columns(scorer: Scorer, explain: int) -> tuple[str, ...]:
    """Return the columns that a result has in addition; raise where this scorer does not explain rows."""
    if explain and not (scorer.texts or scorer.localises):
        normal_rows(scorer.reference.strata)
    return (*ADDED, *_explained(scorer, explain))


def _explained(scorer: Scorer, explain: int) -> tuple[str, ...]:
    """Return the columns that explain flagged rows: of texts and heat maps there is no p-value without a column."""
    return () if not explain else EXPLAINED[:1] if scorer.texts or scorer.localises else EXPLAINED


def _judged_by(
    rule: Rule, file: FileOfRows, count: Callable[[int], None], kept: KeptBlocks | None
) -> Iterator[tuple[RowBlock, JudgedRows, Flags]]:
    """Yield the rows of a file with what they were judged as and which are flagged, block by block."""
    if rule.fdr is None:
        for rows, judged in judged_blocks(file, kept):
            yield rows, judged, rule.flags(judged.compared.p_values)
            count(len(rows.others))
        return
    every, row_ids = [], list[str]()
    for rows, judged in judged_blocks(file, kept):
        every.append(judged)
        row_ids += rows.row_ids or [] if file.needs_ids else []
        count(len(rows.others))
    file.check_ids(rule, row_ids)
    flags = rule.flags(np.concatenate([judged.compared.p_values for judged in every]))
    for rows, judged in zip(file.rows(), every, strict=True):
        yield rows, judged, flags[rows.start : rows.start + len(judged.scores)]
        count(len(rows.others))


def judged_blocks(
    file: FileOfRows, kept: KeptBlocks | None, n_threads: int | None = None
) -> Iterator[tuple[RowBlock, JudgedRows]]:
    """Yield the rows of a file with what they were judged as, in their order; each core judges a block meanwhile."""
    n_threads = n_threads or n_processors()
    waiting: deque[tuple[RowBlock, Future[JudgedRows]]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for rows in file.rows():
                earlier = None if kept is None else kept.get(rows.start, len(rows.others))
                waiting.append((rows, pool.submit(file.judge, rows) if earlier is None else _done(earlier)))
                if len(waiting) > n_threads:
                    yield waiting[0][0], _kept(waiting[0], kept)
                    waiting.popleft()
        except AssayError:  # what is wrong with an earlier row comes first
            for _, judged in waiting:
                judged.result()
            raise
        for each in waiting:
            yield each[0], _kept(each, kept)


def _done(judged: JudgedRows) -> Future[JudgedRows]:
    future = Future[JudgedRows]()
    future.set_result(judged)
    return future


def _kept(each: tuple[RowBlock, Future[JudgedRows]], kept: KeptBlocks | None) -> JudgedRows:
    """Return what a block was judged as, and keep it."""
    rows, judged = each[0], each[1].result()
    if kept is not None:
        kept.add(rows.start, judged)
    return judged


def _reasons(scorer: Scorer, rows: RowBlock, flags: Flags, n_columns: int) -> dict[str, Any]:
    """Return the columns of `EXPLAINED`, which are empty for rows that are not flagged."""
    because, without = np.full(len(flags), "", dtype=object), np.full(len(flags), np.nan)
    flagged, given = np.flatnonzero(flags), rows.features
    if scorer.texts:
        for start in range(0, len(flagged), EXPLAINED_AT_ONCE):
            part = flagged[start : start + EXPLAINED_AT_ONCE]
            because[part] = [document.sentence(n_columns) for document in scorer.explain_texts(given.iloc[part])]
        return {"because": because}
    if scorer.localises:
        for start in range(0, len(flagged), EXPLAINED_AT_ONCE):
            part = flagged[start : start + EXPLAINED_AT_ONCE]
            because[part] = [_placed(of_row, n_columns) for of_row in scorer.heat_maps(given[part])]
        return {"because": because}
    for start in range(0, len(flagged), EXPLAINED_AT_ONCE):
        part = flagged[start : start + EXPLAINED_AT_ONCE]
        names = [None if every is None else [every[row] for row in part] for every in (rows.categories, rows.row_ids)]
        explanation = scorer.explain(given.iloc[part] if hasattr(given, "iloc") else given[part], *names)
        because[part] = [named_pieces(scorer, of_row, n_columns) for of_row in explanation.shares]
        without[part] = explanation.p_without
    return dict(zip(EXPLAINED, (because, without), strict=True))


def named_pieces(scorer: Scorer, shares: Doubles, n_columns: int) -> str:
    """Return the columns of a table, or the tiles of an image, of the largest shares, with these, as text."""
    if scorer.head.get("image_shape"):
        return "; ".join(map(str, first_tiles(shares, pieces_of(scorer.head), scorer.head["image_shape"], n_columns)))
    columns = scorer.columns
    return ", ".join(f"{columns[c]} {shares[c]:.0%}" for c in np.argsort(-shares)[:n_columns] if shares[c] > 0)


def _placed(heat_map: Singles, n_places: int) -> str:
    """Return the hottest places of a heat map as text: "row 12, column 7; row 3, column 20"."""
    return "; ".join(f"row {row}, column {column}" for row, column in hottest_places(heat_map, n_places))
