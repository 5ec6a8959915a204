"""Scoring of the files of a folder one by one, each as it is in the whole, with the state that lets it go on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assay.arrays import Doubles, Integers
from assay.calibration.tally import Tally
from assay.data.dialects import OBSERVED
from assay.parts import read_arrays, read_json, write_arrays, write_json
from assay.scorer.batch import FileOfRows, added_columns, judged_blocks, result_of
from assay.scorer.resuming import KeptBlocks
from assay.scorer.scorer import Scorer
from assay.scorer.writing import row_writer

RESULT = "result"


@dataclass(frozen=True, slots=True)
class PartScoring:
    """The scoring of a folder of Parquet files.

    Attributes
    ----------
    scorer : Scorer
    folder : Path
    state : Path
        Folder that lasts until the whole is scored; its folder ``result`` gets a file for each one.
    key : str
        SHA-256, in hex, of all that the judgements depend on.
    id_column : str or None
    explain : int
        See `assay.scorer.batch.score_file`.
    """

    scorer: Scorer
    folder: Path
    state: Path
    key: str
    id_column: str | None = None
    explain: int = 0

    def is_compared(self, name: str) -> bool:
        """Return whether `compare` was done for a file."""
        return (self.state / f"{name}.compared.json").is_file()

    def is_written(self, name: str) -> bool:
        """Return whether `write` was done for a file."""
        return (self.state / f"{name}.tally.json").is_file() and (self.state / RESULT / name).is_file()

    def compare(self, name: str) -> None:
        """Judge the rows of a file, and keep their p-values, for a decision about the whole folder; once."""
        if self.is_compared(name):
            return
        file, p_values, row_ids = self._file(name), [np.empty(0)], list[str]()
        with self._kept(name, stays=True) as kept, file.unchanged:
            for rows, judged in judged_blocks(file, kept, 1):
                p_values.append(judged.compared.p_values)
                row_ids += rows.row_ids or [] if file.needs_ids else []
        values, counts = np.unique(np.concatenate(p_values), return_counts=True)
        write_arrays(self.state / f"{name}.p", {"values": values, "counts": counts})
        write_json(self.state / f"{name}.compared.json", {"row_ids": row_ids})

    def write(self, name: str, threshold: float | None) -> None:
        """Write the result of a file, which flags rows with p-values up to a threshold (None: no row); once."""
        if self.is_written(name):
            return
        file, tally = self._file(name), Tally(self.scorer.reference.sizes)
        with (
            self._kept(name, stays=False) as kept,
            row_writer(self.state / RESULT / name, file.types_of_result) as writer,
            file.unchanged,
        ):
            for rows, judged in judged_blocks(file, kept, 1):
                p_values = judged.compared.p_values
                flags = np.zeros(len(p_values), dtype=np.bool_) if threshold is None else p_values <= threshold
                tally.add(judged.compared, flags)
                writer.write(result_of(self.scorer, rows, judged, flags, self.explain))
        write_json(self.state / f"{name}.tally.json", tally.to_json())

    def compared(self, names: list[str]) -> tuple[Doubles, Integers, list[str]]:
        """Return the different p-values of some files in ascending order, how many rows have each, and the ids."""
        parts, row_ids = [read_arrays(self.state / f"{name}.p") for name in names], list[str]()
        values, of_part = np.unique(np.concatenate([part["values"] for part in parts]), return_inverse=True)
        counts = np.zeros(len(values), dtype=np.int64)
        np.add.at(counts, of_part, np.concatenate([part["counts"] for part in parts]))
        for name in names:
            row_ids += read_json(self.state / f"{name}.compared.json")["row_ids"]
        return values, counts, row_ids

    def tally(self, names: list[str]) -> Tally:
        """Return the rows of some files that were written, counted."""
        tally = Tally(self.scorer.reference.sizes)
        for name in names:
            tally.add_counted(read_json(self.state / f"{name}.tally.json"))
        return tally

    def _file(self, name: str) -> FileOfRows:
        added = added_columns(self.scorer, self.explain)
        return FileOfRows(self.scorer, self.folder, self.id_column, OBSERVED, added, only=self.folder / name)

    def _kept(self, name: str, *, stays: bool) -> KeptBlocks:
        return KeptBlocks(self.state / f"{name}.judged", self.key, stays=stays)
