"""Flat metrics and curves of all candidates, for ``dvc metrics``, ``dvc plots`` and ``dvc exp show``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from assay.parts import write_bytes, write_json
from assay.pipeline.candidates import candidate_name

if TYPE_CHECKING:
    from assay.evaluation.curves import Curve, Curves
    from assay.evaluation.tested import Tested

FLAT_METRICS = ("auroc", "auprc", "fpr", "worst_stratum_fpr", "power")


def write_curves(out: Path, tested: Mapping[tuple[str, str], Tested], curves: Mapping[str, Curves]) -> None:
    """Write ``metrics.json`` and ``plots/`` of the candidates at one level.

    Numbers in the tables have six digits, so that the bytes are the same wherever the rows are. ``plots/curves.png``
    shows the same without a network, where the pages of ``dvc plots`` load a library.

    Parameters
    ----------
    tested : mapping of (str, str) to Tested
        By detector and adapter.
    curves : mapping of str to Curves
        By the name of the candidate.
    """
    from assay.evaluation.pictures import curves_picture

    figures = {candidate_name(*key): {name: getattr(row, name) for name in FLAT_METRICS} for key, row in tested.items()}
    write_json(out / "metrics.json", figures)
    folder = out / "plots"
    _write(folder / "roc.csv", ("fpr", "tpr"), {name: drawn.roc for name, drawn in curves.items()})
    _write(folder / "pr.csv", ("recall", "precision"), {name: drawn.precision_recall for name, drawn in curves.items()})
    _write(folder / "reliability.csv", ("eps", "fpr"), {name: drawn.reliability for name, drawn in curves.items()})
    _write(folder / "p_values.csv", ("p_value", "share"), {name: drawn.p_values for name, drawn in curves.items()})
    buffer = io.BytesIO()
    curves_picture(curves).savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(folder / "curves.png", buffer.getvalue())


def _write(path: Path, columns: tuple[str, str], curves: Mapping[str, Curve]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("candidate", *columns))
    for name, (x, y) in curves.items():
        table.writerows((name, f"{a:.6g}", f"{b:.6g}") for a, b in zip(x.tolist(), y.tolist(), strict=True))
    write_bytes(path, text.getvalue().encode())
