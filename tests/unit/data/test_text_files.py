"""Texts in files of their own, and in Reuters' SGML, as tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.data.blocks import open_blocks, read_frame
from assay.data.dialects import Dialect
from assay.data.files import read_table
from assay.errors import DataError

REUTERS = """<!DOCTYPE lewis SYSTEM "lewis.dtd">
<REUTERS TOPICS="YES" LEWISSPLIT="TRAIN" OLDID="1" NEWID="7">
<TOPICS><D>grain</D></TOPICS><TEXT>&#2;<TITLE>Wheat &lt;up></TITLE><BODY>Harvest caf\xe9 good. Reuter</BODY></TEXT>
</REUTERS>
<REUTERS TOPICS="YES" LEWISSPLIT="TEST" OLDID="2" NEWID="8">
<TOPICS><D>ship</D><D>crude</D></TOPICS><TEXT TYPE="BRIEF"><TITLE>Tanker</TITLE>
Oil cargo</TEXT>
</REUTERS>
<REUTERS TOPICS="NO" LEWISSPLIT="TEST" OLDID="3" NEWID="9"><TOPICS></TOPICS><TEXT>no topic</TEXT></REUTERS>
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (
        ("sport/b.txt", "Goal and match"),
        ("sport/a.txt", "Größe zählt"),
        ("bank/c.txt", "Loans"),
    ):
        path = tmp_path / "mail" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "mail" / ".hidden.txt").write_text("no")
    return tmp_path / "mail"


def test_a_folder_of_texts_is_a_table_of_their_names_folders_and_words(folder: Path) -> None:
    frame = read_frame(folder, ("text",))
    assert frame["file"].tolist() == ["bank/c.txt", "sport/a.txt", "sport/b.txt"]
    assert frame["label"].tolist() == ["bank", "sport", "sport"]
    assert frame["text"].tolist() == ["Loans", "Größe zählt", "Goal and match"]
    options = {"text": "text", "id_column": "file", "label": "label", "normal": "sport"}
    dataset = read_table(folder, name="mail", **options)  # type: ignore[arg-type]
    assert dataset.data.labels.tolist() == [1, 0, 0]
    assert dataset.data.rows["row_id"].tolist() == frame["file"].tolist()
    assert dataset.card.words[:2] == ("loans", "größe")
    blocks = open_blocks(folder, ("text",), numbers=())
    assert [len(part) for part in blocks.frames(2)] == [2, 1]
    with pytest.raises(DataError, match="has no column 'body'; its columns are file, label, text"):
        read_frame(folder, ("body",))


def test_a_text_in_another_encoding_is_named(folder: Path) -> None:
    (folder / "bank" / "d.txt").write_bytes("Größe".encode("latin-1"))
    with pytest.raises(DataError, match=r"1 of 4 texts .*bank/d.txt: .*--encoding NAME"):
        read_frame(folder, ())
    assert read_frame(folder, (), dialect=Dialect(encoding="latin-1"))["text"][1] == "Größe"


def test_texts_at_the_top_of_a_folder_are_parts_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x,y\n1,2\n")
    (tmp_path / "b.txt").write_text("x,y\n3,4\n")
    assert read_frame(tmp_path, ())["x"].tolist() == [1, 3]


def test_reuters_is_read_as_it_is_downloaded(tmp_path: Path) -> None:
    (tmp_path / "reut2-000.sgm").write_text(REUTERS, encoding="latin-1")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "all-topics.txt").write_text("grain\nship\n")
    for path in (tmp_path, tmp_path / "reut2-000.sgm"):
        frame = read_frame(path, ())
        assert frame["file"].tolist() == ["7", "8", "9"]
        assert frame["label"].tolist() == ["grain", "ship crude", ""]
        assert frame["text"][0].split() == ["Wheat", "<up>", "Harvest", "café", "good.", "Reuter"]
        assert frame["text"][1].split() == ["Tanker", "Oil", "cargo"]
    (tmp_path / "reut2-000.sgm").write_text("<html>", encoding="latin-1")
    with pytest.raises(DataError, match="holds no document"):
        read_frame(tmp_path, ())


def test_a_damaged_file_of_reuters_neither_unites_nor_loses_documents(tmp_path: Path) -> None:
    damaged = REUTERS.replace("</REUTERS>\n<REUTERS", "\n<REUTERS", 1)
    for text in (damaged, REUTERS.replace('<REUTERS TOPICS="NO"', "<X"), REUTERS.rstrip()[:-3]):
        (tmp_path / "reut2-000.sgm").write_text(text, encoding="latin-1")
        with pytest.raises(DataError, match=r"of reut2-000.sgm has \d ends </REUTERS>, not one"):
            read_frame(tmp_path, ())
