"""Texts as words, as rows of codes, as mean vectors; vectors of words."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.texts import ODD, made_up

from assay.data import words
from assay.data.documents import DocumentNull, DocumentScaler
from assay.data.modalities.registry import load_scaler
from assay.data.modalities.text import Text
from assay.data.recipes import synthesize
from assay.data.word_vectors import WordVectors, learned_vectors, read_vectors
from assay.data.words import MOST_WORDS, Codes, document_rows, documents, plain_document, split_words, word_code
from assay.errors import DataError, InputError
from assay.parts import read_part, write_part

TEXTS = made_up(90)


def fitted(**options: object) -> tuple[DocumentScaler, np.ndarray]:
    codes = Codes()
    rows = document_rows(TEXTS, codes)
    return DocumentScaler(codes.words, **options).fit(rows), rows  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Rates, RATES and 3.5% of U.S. don't", ["rates", "rates", "and", "don"]),
        ("x2y abc1def ab", ["abc", "def"]),
        ("Größe naïve мир", ["größe", "naïve", "мир"]),
        ("nai\u0308ve cafe\u0301", ["naïve", "café"]),  # as macOS writes accents
        ("\ufb01nance \u0130stanbul", ["finance", "i\u0307stanbul"]),
        ("हिन्दी समाचार में", ["हिन्दी", "समाचार"]),
        ("", []),
        ("12 34 -- !", []),
    ],
)
def test_words_are_runs_of_three_letters_or_more_in_lower_case(text: str, expected: list[str]) -> None:
    assert split_words(text) == expected


def test_a_code_follows_from_the_word_alone_and_is_exact_in_float64() -> None:
    assert word_code("bank") == word_code("bank") != word_code("banks")
    assert word_code("bank") == int(word_code("bank")) < 2**52
    first, second = document_rows(["bank ship"]), document_rows(["ship bank"])
    np.testing.assert_array_equal(first[0, :2], second[0, 1::-1])


def test_rows_end_in_nan_and_long_documents_are_cut_and_counted() -> None:
    codes = Codes()
    rows = document_rows(["one", "", "word " * (MOST_WORDS + 7)], codes)
    assert rows.shape == (3, MOST_WORDS)
    assert (~np.isnan(rows)).sum(axis=1).tolist() == [1, 0, MOST_WORDS]
    assert codes.n_longer == 1
    assert codes.words == ("one", "word")
    assert documents(rows[:2], codes.words) == ["one", ""]


def test_words_of_one_code_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "word_code", lambda word: 7.0)
    with pytest.raises(DataError, match="'ship' and 'bank' have one code"):
        document_rows(["bank ship"])
    with pytest.raises(DataError, match="'ship' and 'bank' have one code"):
        words.require_different_codes(["bank", "ship"])


def test_words_that_occur_are_told_by_their_codes() -> None:
    rows = document_rows(["ship and bank", ""])
    assert words.words_in(rows, ["loan", "bank", "ship"]) == ("bank", "ship")
    assert words.words_in(rows, []) == ()


def test_what_is_no_text_is_refused_and_what_is_missing_is_empty() -> None:
    assert [plain_document(value, "row") for value in ("a", None, float("nan"))] == ["a", "", ""]
    with pytest.raises(DataError, match=r"row 3 is 1\.5; a document is a text"):
        plain_document(1.5, "row 3")


def test_kept_are_words_that_occur_three_times_and_are_no_stop_words() -> None:
    codes = Codes()
    rows = document_rows(["ship port port and and and", "ship port and rare", "ship and port once"], codes)
    scaler = DocumentScaler(codes.words).fit(rows)
    assert set(scaler.words_) == {"ship", "port"}
    assert scaler.known(document_rows(["A port, unheard-of, and a ship: port"])) == [["port", "ship", "port"]]


def test_the_mean_counts_words_and_passes_unknown_ones_over() -> None:
    vectors = WordVectors(("ship", "port"), np.array([[1, 0], [0, 2]], dtype=np.float32))
    rows = document_rows(["ship port", "ship ship", "port port ship"])
    scaler = DocumentScaler(("ship", "port"), vectors).fit(rows)
    means, counts = np.array([[0.5, 1], [1, 0], [1 / 3, 4 / 3]]), np.array([2, 2, 3])
    # By column: squares of words about their document's mean, and of documents' means about that of all words.
    within = np.array([0.5 + 0 + 2 / 3, 2 + 0 + 8 / 3]) / (7 - 3)
    about = means - np.array([4, 6]) / 7
    between = ((counts[:, None] * about**2).sum(axis=0) - 2 * within) / (7 - 17 / 7)
    deviation = np.sqrt(np.maximum(between, 0) + within / counts[:, None])
    np.testing.assert_allclose(scaler.transform(rows), (means - means.mean(axis=0)) / deviation, rtol=1e-6)
    more = scaler.transform(document_rows(["ship unheard port 7", "port unheard ship"]))
    np.testing.assert_array_equal(more[0], more[1])
    np.testing.assert_array_equal(more[0], scaler.transform(rows)[0])


def test_short_documents_are_no_further_out_than_long_ones() -> None:
    rng = np.random.default_rng(0)
    words = tuple(f"{a}{b}word" for a in "abcdefghij" for b in "abcdefghij")
    vectors = WordVectors(words, rng.normal(size=(100, 8)).astype(np.float32))
    texts = [" ".join(rng.choice(words, size)) for size in np.repeat([2, 8, 40, 200], 150)]
    rows = document_rows(texts)
    scaled = DocumentScaler(words, vectors).fit(rows).transform(rows)
    squares = (scaled**2).sum(axis=1).reshape(4, 150).mean(axis=1)
    np.testing.assert_allclose(squares, 8, rtol=0.2)


def test_a_document_without_known_words_lies_beyond_all_others() -> None:
    scaler, rows = fitted()
    scaled = scaler.transform(rows)
    empty = scaler.transform(document_rows(["", "unheard of"]))
    assert np.isfinite(empty).all()
    np.testing.assert_array_equal(empty[0], empty[1])
    assert np.linalg.norm(empty[0]) > np.linalg.norm(scaled, axis=1).max()
    null = DocumentNull(scaler.dimensions).fit(scaled)
    assert null.hardness(empty)[0] > null.hardness(scaled).max()


def test_documents_without_known_words_that_are_common_are_not_the_oddest() -> None:
    codes = Codes()
    rows = document_rows([*TEXTS, *[""] * 10], codes)
    scaler = DocumentScaler(codes.words).fit(rows)
    norms = np.linalg.norm(scaler.transform(rows), axis=1)
    np.testing.assert_allclose(norms[-1], np.quantile(norms[:-10], 0.9), rtol=1e-5)


def test_sequences_follow_the_means_without_gaps() -> None:
    scaler, rows = fitted(sequences=True)
    row = scaler.transform(document_rows(["unheard bank of ship unheard bank"]))[0]
    places = row[scaler.dimensions :]
    assert [scaler.words_[int(place)] for place in places[:3]] == ["bank", "ship", "bank"]
    assert (places[3:] == -1).all()
    plain, _ = fitted()
    np.testing.assert_array_equal(scaler.transform(rows)[:, : scaler.dimensions], plain.transform(rows))


def test_a_document_is_scaled_the_same_alone_and_after_saving(tmp_path: Path) -> None:
    scaler, rows = fitted(sequences=True)
    write_part(tmp_path, "scaler", scaler.to_part())
    loaded = load_scaler(read_part(tmp_path, "scaler"))
    together = scaler.transform(rows)
    np.testing.assert_array_equal(loaded.transform(rows), together)
    np.testing.assert_array_equal(np.concatenate([loaded.transform(row[None]) for row in rows]), together)
    with pytest.raises(InputError, match=r"rows have shape \(90, 3\); documents have \(n, 500\)"):
        scaler.transform(rows[:, :3])


def test_training_rows_without_a_word_to_keep_are_refused() -> None:
    with pytest.raises(DataError, match="no word occurs 3 times in the 2 training documents, is no stop word; bring"):
        DocumentScaler().fit(document_rows(["one two three", "the the the"]))
    vectors = WordVectors(("elsewhere",), np.ones((1, 2), dtype=np.float32))
    with pytest.raises(DataError, match="is no stop word and has a vector"):
        DocumentScaler((), vectors).fit(document_rows(["ship ship ship"]))


def test_learned_vectors_of_words_that_occur_together_are_alike() -> None:
    scaler, _ = fitted()
    unit = scaler.vectors_ / np.linalg.norm(scaler.vectors_, axis=1, keepdims=True)
    vector = dict(zip(scaler.words_, unit, strict=True))
    same, other = vector["bank"] @ vector["loan"], vector["bank"] @ vector["cargo"]
    assert same > other + 0.3
    again, _ = fitted()
    np.testing.assert_array_equal(again.vectors_, scaler.vectors_)
    with pytest.raises(DataError, match="no document has two words"):
        learned_vectors(np.array([[0, -1], [0, -1]]), 1)


def test_vectors_are_read_from_glove_fasttext_and_npz(tmp_path: Path) -> None:
    lines = "ship 1 2.5\nPort -1 0\nother 9 9\nport 7 7\n"
    (tmp_path / "glove.txt").write_text(lines)
    (tmp_path / "fast.vec").write_text("4 2\n" + lines)
    (tmp_path / "glove.txt.gz").write_bytes(gzip.compress(lines.encode()))
    np.savez(tmp_path / "v.npz", words=["ship", "Port", "other"], vectors=np.array([[1, 2.5], [-1, 0], [9, 9]]))
    for name in ("glove.txt", "fast.vec", "glove.txt.gz", "v.npz"):
        read = read_vectors(tmp_path / name, {"ship", "port", "unheard"})
        assert read.words == ("ship", "port")
        np.testing.assert_array_equal(read.vectors, np.array([[1, 2.5], [-1, 0]], dtype=np.float32))
        read.write(tmp_path / name.replace(".", "-"))
        again = WordVectors.read(tmp_path / name.replace(".", "-"))
        assert again is not None
        assert again.words == read.words


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("ship 1 2\nport 1\n", "line 2 has 1 numbers, earlier ones 2"),
        ("ship 1 x\n", "could not convert string to float: 'x'"),
        ("other 1 2\n", "has a vector for none of the 2 words"),
        ("ship 1 nan\nport 1 2\n", "the vector of 'ship' holds a value that is not a finite number"),
        ("ship 1 1e300\nport 1 2\n", "the vector of 'ship' holds a value that is not a finite number in float32"),
        ("ship\nport\n", "line 1 has a word and no numbers"),
        ("ship 0 0\nport 0 1e-300\nother 1 2\n", "all numbers of the words of the texts are zero"),
        ("other 1 2\nship 1 2 3\n", "line 2 has 3 numbers, earlier ones 2"),
    ],
)
def test_files_of_vectors_that_cannot_be_used_are_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "v.txt").write_text(content)
    with pytest.raises(DataError, match=said):
        read_vectors(tmp_path / "v.txt", {"ship", "port"})
    with pytest.raises(DataError, match="there is no file"):
        read_vectors(tmp_path / "none.txt", {"ship"})


def test_the_first_line_words_with_spaces_and_a_mark_are_taken_for_what_they_are(tmp_path: Path) -> None:
    for content, expected in (
        ("ship 1\nport 2\n", [[1], [2]]),
        ("2 1\nship 1\nport 2\n", [[1], [2]]),
        ("\ufeffship 1 2\nport 3 4\n", [[1, 2], [3, 4]]),
        ("\ufeff3 2 \nship 1 2 \nport 3 4 \n", [[1, 2], [3, 4]]),
        ("ship 1 2\n. . . 5 6\nat name@domain.com 7 8\n1 000 9 9\nport 3 4\n", [[1, 2], [3, 4]]),
    ):
        (tmp_path / "v.txt").write_text(content, encoding="utf-8")
        read = read_vectors(tmp_path / "v.txt", {"ship", "port"})
        assert read.words == ("ship", "port")
        np.testing.assert_array_equal(read.vectors, np.array(expected, dtype=np.float32))


def test_damaged_files_of_vectors_are_refused_in_a_sentence(tmp_path: Path) -> None:
    packed = gzip.compress("".join(f"word{i} {i} {i * i}\n" for i in range(500)).encode())
    np.savez_compressed(tmp_path / "whole.npz", words=["ship"] * 90, vectors=np.arange(180.0).reshape(90, 2))
    whole = (tmp_path / "whole.npz").read_bytes()
    np.save(tmp_path / "v.npy", np.ones((2, 2)))
    np.savez(tmp_path / "narrow.npz", words=["ship"], vectors=np.ones((1, 0)))
    with zipfile.ZipFile(tmp_path / "lzma.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(tmp_path / "v.npy", "words.npy")
    lzma = (tmp_path / "lzma.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "head.npz", "w") as archive:
        archive.writestr("words.npy", b"\x93NUMPY\x01\x00\x0a\x00{'descr': \n")
    for name, content, said in (
        ("flipped.gz", packed[:40] + b"\xff" * 40 + packed[80:], "decompressing|CRC"),
        ("cut.gz", packed[:-20], "ended"),
        ("plain.gz", b"ship 1 2\n", "gzip"),
        ("text.npz", b"ship 1 2\n", "not a zip file"),
        ("cut.npz", whole[:-30], "not a zip file"),
        ("flipped.npz", whole[:100] + b"\xff" * 40 + whole[140:], "decompressing|CRC|magic|header"),
        ("array.npz", (tmp_path / "v.npy").read_bytes(), "not a zip file"),
        ("lzma.npz", lzma[:60] + bytes(20) + lzma[80:], "input data"),
        ("head.npz", (tmp_path / "head.npz").read_bytes(), "multi-line"),
        ("narrow.npz", (tmp_path / "narrow.npz").read_bytes(), r"shape \(1, 0\), no numbers"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} cannot be read as word vectors: .*({said})") as refused:
            read_vectors(tmp_path / name, {"ship"})
        assert "\n" not in str(refused.value)


def test_recipes_make_documents_as_long_as_others_of_their_words() -> None:
    _, rows = fitted()
    lengths = (~np.isnan(rows)).sum(axis=1)
    used = set(rows[~np.isnan(rows)].tolist())
    made = {name: synthesize(name, rows, 60, seed=0, modality=Text()) for name in Text().recipes}
    for features, sources in made.values():
        np.testing.assert_array_equal((~np.isnan(features)).sum(axis=1), lengths[sources])
        assert set(features[~np.isnan(features)].tolist()) <= used
    different = {name: np.mean([len(set(row[~np.isnan(row)])) for row in made[name][0]]) for name in made}
    assert different["repeated"] == 1
    assert different["foreign"] <= 4 < different["blended"]
    again, _ = synthesize("foreign", rows, 100, seed=0, modality=Text())
    np.testing.assert_array_equal(again[:60], made["foreign"][0])
    with pytest.raises(DataError, match="no document has a word"):
        synthesize("blended", np.full((5, 3), np.nan), 2, seed=0, modality=Text())


def test_odd_words_are_in_no_theme() -> None:
    assert not set(ODD) & {word for text in TEXTS for word in split_words(text)}
