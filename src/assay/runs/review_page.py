"""The questions of a review as tables for a terminal, and as one HTML page without network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.data.answers import csv_of
from assay.data.spreadsheets import guarded
from assay.parts import write_bytes
from assay.runs.answering import GIVEN_COLUMNS, open_lines
from assay.runs.reviewing import ReviewItem

if TYPE_CHECKING:
    from rich.console import RenderableType

STRIP_WIDTH = 260  # of a strip
_SIDE = 96  # pixels of a picture of a row


def write_review(folder: Path, dataset: str, questions: list[ReviewItem]) -> tuple[Path, Path]:
    """Write the page, and the lines to fill in for those without a browser; return both paths."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("assay.runs", "."), autoescape=True, trim_blocks=True)
    lines = open_lines(questions)
    content = environment.get_template("review.html").render(
        dataset=dataset,
        questions=[{"question": each, **_drawn(each)} for each in questions],
        width=STRIP_WIDTH,
        columns=GIVEN_COLUMNS,
        lines=lines.assign(row_id=guarded(lines["row_id"])).to_dict("split")["data"],
    )
    page, sheet = folder / f"{dataset}.html", folder / f"{dataset}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(page, content.encode())
    write_bytes(sheet, csv_of(lines))
    return page, sheet


def shown_lines(questions: list[ReviewItem]) -> Iterator[RenderableType]:
    """Yield each question for the terminal; names and values are plain text there, whatever they hold."""
    from rich.table import Table
    from rich.text import Text

    for question in questions:
        yield Text(f"\n{question.number}  {question.title}: {question.why}", style="bold")
        yield Text(f"   {question.sentence}")
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 3))
        for name in ("", "row", *question.columns):
            table.add_column(Text(name), overflow="ellipsis", no_wrap=True)
        for kind, rows in (("typical", question.typical), ("extreme", question.extreme)):
            for row_id, values in rows:
                table.add_row(*(Text(cell) for cell in (kind if question.asked == "group" else "", row_id, *values)))
        yield table


def _drawn(question: ReviewItem) -> dict[str, Any]:
    strips = [
        {
            "column": each.column,
            "words": each.words,
            "bars": [[round(STRIP_WIDTH * share, 1) for share in span] for span in each.spans],
        }
        for each in question.differences
        if each.spans is not None
    ]
    return {"strips": strips, "pictures": [_data_uri(picture) for picture in question.pictures]}


def _data_uri(picture: NDArray[np.uint8]) -> str:
    from PIL import Image

    times = max(1, _SIDE // max(picture.shape[:2]))
    stream = io.BytesIO()
    Image.fromarray(picture.repeat(times, axis=0).repeat(times, axis=1)).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
