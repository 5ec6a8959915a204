"""How a CSV file is written: separator, decimal sign, encoding, header; taken from the file where that is certain."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from assay.errors import ConfigError, DataError

if TYPE_CHECKING:
    from _csv import Reader

MISSING = (  # words that stand for a missing value in any column, apart from spaces around them
    *("", "NA", "N/A", "n/a", "<NA>", "NaN", "nan", "-NaN", "-nan", "NaT", "null", "NULL", "None"),
    *("#N/A", "#NA", "#N/A N/A", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)
UNNAMED_INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls one in a Parquet file
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_SAMPLE_LINES = 1000
_NAMED_SEPARATORS = {"tab": "\t", r"\t": "\t", "space": " "}
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32"}
_MARKS |= {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # which begins as one of utf-32
_RARE_SEPARATORS = "~^:"
_GZIP, _FOREIGN = b"\x1f\x8b", {b"PK\x03\x04": "an Excel or zip", b"PAR1": "a Parquet", b"\xd0\xcf\x11\xe0": "an Excel"}
_SEP_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
# Documents are longer than the 131,072 characters that csv allows a field; this is the most on every system.
csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a CSV file is written; what is None is taken from the file, or the file is refused.

    Attributes
    ----------
    separator : str, optional
        One character, or "tab" or "space" (runs of spaces separate once).
    decimal : {".", ","}, optional
    encoding : str, optional
        A name that Python knows, such as "latin-1".
    header : bool, optional
        Whether the first line holds names. Without them columns are called 0, 1, 2, ...
    quotes : bool
        Whether a field may stand in quotes, with separators and line ends in it; else a quote is a sign as any other.

    Raises
    ------
    ConfigError
        A value is not allowed.
    """

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    header: bool | None = None
    quotes: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        separator = _NAMED_SEPARATORS.get(str(self.separator), self.separator)
        object.__setattr__(self, "separator", separator)
        if separator is not None and (len(separator) != 1 or separator.isalnum() or separator in '"\r\n'):
            raise ConfigError(f"the separator is {separator!r}; give one character, or tab, or space")
        if self.decimal not in (None, ".", ","):
            raise ConfigError(f'the decimal sign is {self.decimal!r}; give "." or ","')
        if self.decimal is not None and self.decimal == separator:
            raise ConfigError(f"{separator!r} cannot be both the separator and the decimal sign")
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except LookupError as error:
                raise ConfigError(
                    f"there is no encoding {self.encoding!r}; give for instance utf-8, latin-1, cp1252 or utf-16"
                ) from error


OBSERVED = Dialect()
PLAIN = Dialect(",", ".", "utf-8", header=True)  # as Assay writes its own files


@dataclass(frozen=True, slots=True)
class CsvLayout:
    """The certain part of a CSV file's dialect.

    Attributes
    ----------
    separator, encoding : str
    skipped : int
        Lines before the header: 1 where the first is a line ``sep=;``, as spreadsheet programs write it.
    """

    separator: str
    encoding: str
    skipped: int

    @property
    def oddities(self) -> list[str]:
        """What differs from a plain file (comma, UTF-8), in words."""
        name = SEPARATORS.get(self.separator, repr(self.separator))
        encoding = self.encoding.removesuffix("-sig")
        odd = [] if self.separator == "," else [f"separator {name}"]
        return odd if encoding == "utf-8" else [*odd, f"encoding {encoding}"]


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed where it is a gzip file; close it after use."""
    with path.open("rb") as stream:
        is_gzip = stream.read(2) == _GZIP
    return cast("BinaryIO", gzip.open(path, "rb")) if is_gzip else path.open("rb")


def open_text(path: Path, layout: CsvLayout) -> io.TextIOWrapper:
    """Open a CSV file at its first record, with line ends as they are; close it after use."""
    stream = io.TextIOWrapper(open_bytes(path), encoding=layout.encoding, newline="")
    for _ in range(layout.skipped):
        stream.readline()
    return stream


def layout_of(path: Path, dialect: Dialect) -> CsvLayout:
    """Return the layout of a CSV file: as the dialect says, else as the file shows.

    Raises
    ------
    DataError
        The file is of another kind, or does not show its separator or encoding; the message names the option.
    """
    encoding = _encoding(path, dialect)
    first = CsvLayout(",", encoding, 0)
    with open_text(path, first) as stream:
        lines = list(islice(stream, _SAMPLE_LINES + 1))
    skipped = 0
    separator = dialect.separator
    if lines and (match := _SEP_LINE.fullmatch(lines[0])):
        lines, skipped, separator = lines[1:], 1, separator or match[1]
    is_whole = len(lines) + skipped <= _SAMPLE_LINES
    return replace(first, separator=separator or _separator(path, lines, is_whole=is_whole), skipped=skipped)


def records(lines: Iterable[str], separator: str, *, quotes: bool) -> Reader:
    """Return a reader of records that takes no quote which is not closed, or is followed by text."""
    if separator == " ":
        lines = (" ".join(line.split()) for line in lines)
    return csv.reader(lines, delimiter=separator, strict=True, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)


def _encoding(path: Path, dialect: Dialect) -> str:
    with open_bytes(path) as stream:
        start = stream.read(4096)
    for mark, kind in _FOREIGN.items():
        if start.startswith(mark):
            raise DataError(f"{path.name} is {kind} file, not CSV; save it as CSV, or give it the proper ending")
    shown = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if dialect.encoding is not None:
        is_utf8 = dialect.encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        return "utf-8-sig" if is_utf8 else dialect.encoding
    if shown is None and b"\0" in start:
        raise DataError(
            f"{path.name} holds zero bytes, as UTF-16 without a byte-order mark does; name its encoding, for instance "
            "--encoding utf-16-le"
        )
    return shown or "utf-8-sig"


def _separator(path: Path, lines: list[str], *, is_whole: bool) -> str:
    """Return the separator that the header and the first lines of a file show."""
    counts = {separator: _field_counts(lines, separator, is_whole=is_whole) for separator in SEPARATORS}
    splitting = [separator for separator, fields in counts.items() if fields and fields[0] > 1]
    if len(splitting) > 1:
        even = [separator for separator in splitting if len(set(counts[separator])) == 1]
        if len(even) != 1:
            names = " and ".join(SEPARATORS[separator] for separator in splitting)
            raise DataError(f"the header of {path.name} can be split by {names}; name the separator: --sep")
        return even[0]
    if splitting:
        return splitting[0]
    for separator in _RARE_SEPARATORS:
        if len(fields := set(_field_counts(lines, separator, is_whole=is_whole))) == 1 and fields != {1}:
            raise DataError(
                f"{path.name} seems to be separated by {separator!r}; say so (--sep {separator!r}), or that it has one "
                "column (--sep ,)"
            )
    words = {len(line.split()) for line in lines if line.strip()}
    if len(words) == 1 and words != {1}:
        raise DataError(
            f"{path.name} seems to be separated by spaces; say so (--sep space), or that it has one column (--sep ,)"
        )
    return ","


def _field_counts(lines: list[str], separator: str, *, is_whole: bool) -> list[int]:
    """Return the numbers of fields of the records that lines hold, without blank ones."""
    counts = [len(fields) for fields in csv.reader(lines, delimiter=separator) if "".join(fields).strip()]
    return counts if is_whole else counts[:-1] or counts
