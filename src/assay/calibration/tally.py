"""The rows of a batch counted by what a bound on their false discoveries depends on, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from assay.arrays import Flags
from assay.calibration.batches import false_discovery_bound
from assay.calibration.decisions import Compared

_KEYS = ["p_value", "reference", "chosen"]


class Tally:
    """Counts rows by p-value, reference and whether they were chosen.

    Its size does not grow with the number of rows: ties are counted, so that the p-values with a reference of m rows
    are m + 1 different ones.

    Parameters
    ----------
    sizes : tuple of int, or None
        See `assay.calibration.decisions.Reference.sizes`.
    """

    def __init__(self, sizes: tuple[int, ...] | None) -> None:
        self.sizes, self.n_rows, self.n_chosen = sizes, 0, 0
        self._counts = pd.Series(dtype=np.int64)

    def add(self, compared: Compared, chosen: Flags) -> None:
        """Count n rows; `chosen` is of shape (n,)."""
        self.n_rows, self.n_chosen = self.n_rows + len(chosen), self.n_chosen + int(chosen.sum())
        if compared.counted is None or not len(chosen):
            return
        columns = (compared.counted, compared.of_row, chosen)
        rows = pd.DataFrame(dict(zip(_KEYS, columns, strict=True))).groupby(_KEYS).size()
        self._counts = rows if self._counts.empty else self._counts.add(rows, fill_value=0).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values, for `add_counted`."""
        counts = [[*key, int(n)] for key, n in zip(self._counts.index.tolist(), self._counts, strict=True)]
        return {"rows": self.n_rows, "chosen": self.n_chosen, "counts": counts}

    def add_counted(self, content: dict[str, Any]) -> None:
        """Count the rows that another tally of the same references counted, by its `to_json`."""
        self.n_rows, self.n_chosen = self.n_rows + content["rows"], self.n_chosen + content["chosen"]
        if content["counts"]:
            *keys, numbers = zip(*content["counts"], strict=True)
            rows = pd.Series(numbers, pd.MultiIndex.from_arrays([list(key) for key in keys], names=_KEYS))
            self._counts = rows if self._counts.empty else self._counts.add(rows, fill_value=0).astype(np.int64)

    def bound(self, delta: float) -> int | None:
        """Return an upper bound on the normal rows among the chosen ones, or None where none is proved.

        Ties are counted, even where p-values break them at random: calibration scores have no random numbers, and
        then the joint law is another one. See `assay.calibration.batches.false_discovery_bound`.
        """
        if self.sizes is None:
            return None
        if self._counts.empty:
            return 0
        rows = self._counts.index.to_frame()
        return false_discovery_bound(
            rows["p_value"].to_numpy(),
            rows["chosen"].to_numpy(dtype=np.bool_),
            delta,
            sizes=self.sizes,
            of_row=rows["reference"].to_numpy(),
            counts=self._counts.to_numpy(),
        )
