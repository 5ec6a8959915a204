"""Labels that people gave after they had seen a row's score: a file for each dataset, for Git.

Who looks at scores labels the rows that stand out. Such labels say nothing fair of the rows that calibrate, select or
test, so a row that is listed comes into a dataset as unknown, in whatever file its label stands.
"""

from __future__ import annotations

import csv
import fcntl
import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from assay.errors import DataError, RequestError
from assay.parts import go_on_after, is_there

SEEN_COLUMNS = ("row_id", "label", "who", "time", "score_seen")
MOST_BYTES = 2**26
_FORMULA = re.compile(r"'*[=+\-@]")


def seen_labels_path(root: Path, name: str) -> Path:
    """Return the path of a dataset's labels that were given to a service."""
    return root / "labels" / f"{name}.feedback.csv"


def append_seen_labels(path: Path, labels: Sequence[tuple[str, int]], who: str) -> None:
    """Append labels of rows, (row id, 0 or 1) each, all of them or none; they are on disk when this returns.

    The file is locked while it is written. Part of a line, which a crash may have left, is removed first; a whole one
    whose end is missing, as some editors leave it, stays.

    Raises
    ------
    RequestError
        The file is full (503).
    OSError
        It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text, now = io.StringIO(), datetime.now(UTC).isoformat(timespec="seconds")
    writer = csv.writer(text, lineterminator="\n")
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = file.readall()
        whole = content.rfind(b"\n") + 1
        if _is_line(content[whole:]):
            whole = len(content)
            text.write("\n")
        if not whole:
            writer.writerow(SEEN_COLUMNS)
        writer.writerows((_guarded(row_id), label, _guarded(who), now, "1") for row_id, label in labels)
        added = text.getvalue().encode()
        if whole + len(added) > MOST_BYTES:
            raise RequestError(503, f"{path.name} is full: it has {whole} bytes, and at most {MOST_BYTES}")
        go_on_after(file, whole, added, sync=True)


def read_seen_labels(path: Path) -> dict[str, int]:
    """Return the labels in a file by row id, of each row the latest; none where there is no file.

    Raises
    ------
    DataError
        A line cannot be read; the message names it.
    """
    if not is_there(path):
        return {}
    labels = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = tuple(next(reader, SEEN_COLUMNS))
            for fields in reader:
                if header != SEEN_COLUMNS or len(fields) != len(header) or fields[1] not in ("0", "1"):
                    expected = f"{','.join(SEEN_COLUMNS)}, with the label 0 or 1"
                    raise DataError(f"{path}, line {reader.line_num} is not {expected}; correct it")
                row_id = fields[0][1:] if fields[0].startswith("'") and _FORMULA.match(fields[0]) else fields[0]
                labels[row_id] = int(fields[1])
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}; save it as CSV in UTF-8") from error
    return labels


def _is_line(content: bytes) -> bool:
    """Return whether a content is a whole line, but for its end; one that was cut off has fewer fields."""
    try:
        fields = next(csv.reader([content.decode("utf-8", "replace")]), [])
    except csv.Error:
        return False
    return len(fields) == len(SEEN_COLUMNS) and fields[-1] in ("1", SEEN_COLUMNS[-1])


def _guarded(text: str) -> str:
    """Return a text that a spreadsheet program does not run; without pandas, which no service loads for it."""
    return f"'{text}" if _FORMULA.match(text) else text
