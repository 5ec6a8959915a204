"""Subsampled: the mean score of a detector fitted on many small samples of the training rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from assay.arrays import Labels, Singles
from assay.detectors.base import Detector, EpochProgress, check_rows, require_fitted
from assay.detectors.wrappers.wrapper import Wrapper
from assay.parameters import Count


@dataclass(kw_only=True, eq=False, repr=False)
class Subsampled(Wrapper):
    """Mean of any detector over small random samples of the training rows.

    With 1 % contaminants a sample of 256 rows holds two or three: too few to be each other's five nearest
    neighbours, so that a cluster of them no longer looks dense (the idea of Isolation Forest's samples, Liu, Ting
    and Zhou 2008; for neighbours Sugiyama and Borgwardt 2013). The price is fine structure: small groups of normal
    rows are thinned out as well. It fails if a sample holds more contaminants than the inner detector's
    neighbourhood, for 5-NN from about 2 %.

    Members have one kind and the same number of rows, so that their scores are averaged without normalisation.

    Parameters
    ----------
    detector : str or dict
        The inner detector: its name, or {name: {parameter: value}}.
    samples : int
        Number of samples, and of members.
    sample_size : int
        Rows in a sample, drawn without replacement. With at most that many training rows every member is fitted on
        all of them, and members differ only by their seeds.
    image_shape, series_shape, device
        Passed to the members.
    seed : int
        Draws the samples and the members' seeds; member s depends only on (seed, s).

    Attributes
    ----------
    n_features_in_ : int
        Width of the rows.
    members_ : list of Detector
    """

    kind: ClassVar[str] = "subsampled"

    samples: Count = 20
    sample_size: Annotated[int, Ge(2)] = 256

    def decision_function(self, X: Singles) -> Singles:
        """Return the members' mean scores of rows (n, d), of shape (n,)."""
        require_fitted(self, "members_")
        rows = check_rows(X, self.n_features_in_)
        total = np.zeros(len(rows))
        for member in self.members_:  # one by one: a sum over an axis may add in another order for a single row
            total += member.decision_function(rows)
        return np.asarray(total / len(self.members_), dtype=np.float32)

    def _fit(self, rows: Singles, labels: Labels, progress: EpochProgress | None) -> None:
        members = []
        for s in range(self.samples):
            rng = np.random.default_rng([self.seed, s])
            drawn = np.sort(rng.choice(len(rows), min(self.sample_size, len(rows)), replace=False))
            members.append(self._new(int(rng.integers(2**31))).fit(rows[drawn], labels[drawn]))
        self.members_ = members

    def _inner(self) -> list[Detector]:
        return self.members_

    def _restore(self, loaded: list[Detector], arrays: Mapping[str, NDArray[Any]]) -> None:
        if len(loaded) != self.samples:
            raise ValueError(f"it holds {len(loaded)} members, not {self.samples}")
        self.members_ = loaded
