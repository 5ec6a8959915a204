"""Tabular rows: columns in no order, each with its own scale."""

from __future__ import annotations

from typing import ClassVar

from assay.data.modalities.base import Modality


class Tabular(Modality):
    """Rows whose columns are features in no order."""

    name: ClassVar[str] = "tabular"


TABULAR = Tabular()
