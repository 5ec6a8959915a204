"""Texts in files of their own, or in Reuters' SGML, as a table of the columns file, label and text, a row for each."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa

from assay.data.dialects import Dialect
from assay.data.image_files import names_of_files, report_bad
from assay.errors import DataError

COLUMNS = ("file", "label", "text")
_PLAIN, _SGML = ".txt", ".sgm"
_BEGIN, _END = re.compile(r"<REUTERS\b"), "</REUTERS>"
_NUMBER, _TOPIC = re.compile(r'NEWID="(\d+)"'), re.compile(r"<D>(.*?)</D>")
_TOPICS = re.compile(r"<TOPICS>(.*?)</TOPICS>")
_BODY, _TAG = re.compile(r"<TEXT[^>]*>(.*)</TEXT>", re.DOTALL), re.compile(r"<[^>]+>")


def holds_text_files(path: Path) -> bool:
    """Return whether a path is a file of Reuters' SGML, or a folder with such, or with .txt files in folders within it.

    (.txt files in the folder itself are the parts of a table.)
    """
    if not path.is_dir():
        return path.suffix.lower() == _SGML and path.is_file()
    return any("/" in name or name.lower().endswith(_SGML) for name in _names(path))


def _names(folder: Path) -> list[str]:
    """Return the files of texts in a folder; beside SGML, plain files are about it (lists of topics)."""
    sgml, plain = (names_of_files(folder, (ending,))[0] for ending in (_SGML, _PLAIN))
    return sgml or plain


class TextFiles:
    """Texts in blocks (`assay.data.blocks.Blocks`).

    ``file`` is the name of a file within the folder, ``label`` the folder that it lies in; of Reuters-21578 (documents
    between tags REUTERS) the number NEWID and the topics, "" without any. Texts are UTF-8, SGML is Latin-1, unless the
    dialect names another encoding. Up to 1 % of the files may be unreadable: they are left out, and named.

    Raises
    ------
    DataError
        There is no text, or more files cannot be read.
    """

    start = 0

    def __init__(self, path: Path, dialect: Dialect) -> None:
        folder = path if path.is_dir() else path.parent
        names = _names(path) if path.is_dir() else [path.name]
        rows, bad = list[tuple[str, str, str]](), dict[str, str]()
        for name in names:
            is_sgml = name.lower().endswith(_SGML)
            try:
                text = (folder / name).read_bytes().decode(dialect.encoding or ("latin-1" if is_sgml else "utf-8-sig"))
            except (OSError, ValueError, LookupError) as error:
                bad[name] = f"{error} (--encoding NAME names another encoding)"
                continue
            rows += _documents(name, text) if is_sgml else [(name, (folder.resolve() / name).parent.name, text)]
        report_bad(path, names, bad, "texts")
        if not rows:
            raise DataError(f"{path.name} holds no document; Reuters' SGML has them between <REUTERS> and </REUTERS>")
        self._frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype="str")
        self.n_rows, self.types = len(rows), dict.fromkeys(COLUMNS, pa.string())

    def frames(self, rows: int) -> Iterator[pd.DataFrame]:
        """Yield frames of at most so many rows."""
        for start in range(0, self.n_rows, rows):
            yield self._frame.iloc[start : start + rows].reset_index(drop=True)


def _documents(name: str, text: str) -> Iterator[tuple[str, str, str]]:
    """Yield number, topics and text of the documents of a file of Reuters-21578."""
    for piece in _BEGIN.split(text)[1:]:
        (head, _, rest), n_ends = piece.partition(">"), piece.count(_END)
        if n_ends != 1:
            raise DataError(
                f"the document {head[:60]!r} of {name} has {n_ends} ends {_END}, not one; the file is damaged: get it "
                "again"
            )
        document = rest.partition(_END)[0]
        number, topics, body = _NUMBER.search(head), _TOPICS.search(document), _BODY.search(document)
        if number is None or body is None:
            raise DataError(f"the document {head[:60]!r} has no NEWID or no TEXT; it is not Reuters-21578's")
        named = " ".join(_TOPIC.findall(topics[1])) if topics else ""
        yield number[1], named, html.unescape(_TAG.sub(" ", body[1]))
