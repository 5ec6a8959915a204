"""The scorer: rows in any decent form, files that are what was packaged, tags that mean one folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import assay
from assay.data.encoding import Encoder
from assay.data.scaling import Standard
from assay.errors import AssayError, ConfigError, InputError, ScorerError, TamperedError
from assay.hashing import hash_file
from assay.parts import Part, read_arrays, read_json, write_arrays, write_bytes, write_json
from assay.project.deployment import promote
from assay.project.scorers import find_scorer
from assay.scorer.features import as_features, as_rows, checked_categories, checked_ids, column_order
from assay.scorer.folder import ANSWERS, check_files, write_scorer
from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer
from assay.scorer.statement import read_statement, write_statement

FROZEN = Path(__file__).parents[2] / "frozen" / "scorer-1"
(PACKED,) = (path.parent for path in FROZEN.glob("*/scorer.json"))
EXPECTED = read_json(FROZEN / "expected.json")
ROWS = np.array(EXPECTED["features"], dtype=np.float32)
FILES = sorted(path.relative_to(PACKED).as_posix() for path in PACKED.rglob("*") if path.is_file())
THREE = ("b", "a", "c")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return load_scorer(PACKED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the frozen scorer, to be spoilt."""
    return Path(shutil.copytree(PACKED, tmp_path / PACKED.name))


def casting(precision: str) -> Standard:
    """Return a scaler that casts rows to a precision before anything else."""
    scaler = Standard()
    scaler.precision = precision  # type: ignore[assignment]
    return scaler


def frame() -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=read_json(PACKED / "scorer.json")["columns"])


class Capsule:
    """A table of a library that knows nothing but Arrow's PyCapsule interface."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


def reversed_tables() -> list[Any]:
    table = pa.Table.from_pandas(frame()[frame().columns[::-1]])
    return [table, table.to_batches()[0], table.to_reader(), Capsule(table)]


def flip(path: Path, place: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(bytes(content))


def repack(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change scorer.json and name the folder for it, as whoever packaged it so would have."""
    head = read_json(folder / "scorer.json")
    change(head)
    write_json(folder / "scorer.json", head)
    return folder.rename(folder.parent / hash_file(folder / "scorer.json")[:12])


def test_a_scorer_of_schema_1_still_says_what_it_said(scorer: Scorer) -> None:
    assert scorer.decision_function(ROWS).tolist() == EXPECTED["scores"]
    assert scorer.p_values(ROWS).tolist() == EXPECTED["p_values"]
    assert scorer.predict(ROWS).tolist() == EXPECTED["flags"]
    assert scorer.tag == f"breast_cancer:{PACKED.name}"


@pytest.mark.parametrize("schema", [1, 2])
def test_scorers_of_schemas_1_and_2_cast_to_float32_before_anything_else(schema: int) -> None:
    """Scores and p-values, randomised ties included, are those of the cast rows to the last bit."""
    (packed,) = (path.parent for path in FROZEN.parent.glob(f"scorer-{schema}/*/scorer.json"))
    expected, scorer = read_json(packed.parent / "expected.json"), load_scorer(packed)
    rows = pd.DataFrame(expected["rows"]) if schema == 2 else frame()
    category = None if scorer.category_column is None else rows[scorer.category_column].tolist()
    features = rows[list(scorer.columns)].to_numpy(dtype=np.float64)
    fine = features * (1 + 2.0**-40)
    cast = fine.astype(np.float32)
    assert (cast != fine).any()
    assert scorer.function.scaler.precision == "float32"
    np.testing.assert_array_equal(scorer.decision_function(fine), scorer.decision_function(cast))
    np.testing.assert_array_equal(scorer.p_values(fine, category), scorer.p_values(cast, category))
    np.testing.assert_array_equal(scorer.p_values(cast.astype(np.float64), category), expected["p_values"])


def test_types_of_what_a_scorer_says(scorer: Scorer) -> None:
    assert scorer.decision_function(ROWS).dtype == np.float32
    assert scorer.p_values(ROWS).dtype == np.float64
    assert scorer.predict(ROWS).dtype == np.bool_
    for answer in (scorer.decision_function, scorer.p_values, scorer.predict):
        assert answer(ROWS).shape == (len(ROWS),)
        assert answer(ROWS[:0]).shape == (0,)


def test_rows_are_flagged_at_the_packaged_rate_unless_told_otherwise(scorer: Scorer) -> None:
    p_values = scorer.p_values(ROWS)
    assert scorer.head["eps"] == 0.05
    assert scorer.predict(ROWS).tolist() == (p_values <= 0.05).tolist()
    for eps in (0.01, 0.7, 0.99):
        assert scorer.predict(ROWS, eps=eps).tolist() == (p_values <= eps).tolist()
    assert not scorer.predict(ROWS, eps=5e-324).any()
    for bad in (0, 1, -0.1, float("nan"), float("inf"), True, "0.1", np.array([0.1])):
        with pytest.raises(ConfigError, match="eps is"):
            scorer.predict(ROWS, eps=bad)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="fdr is"):
            scorer.discover(ROWS, fdr=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rows",
    [
        ROWS.tolist(),
        tuple(map(tuple, ROWS.tolist())),
        ROWS.astype(np.float64),
        np.asfortranarray(ROWS),
        ROWS.astype(">f4"),
        frame(),
        frame().astype(np.float64),
        frame()[frame().columns[::-1]],
        frame().sample(frac=1, axis=1, random_state=0),
        frame().set_axis(list("uvwxyz"), axis=0),
        np.ma.MaskedArray(ROWS),
        *reversed_tables(),
        pa.Table.from_pandas(frame().set_axis(list("uvwxyz"))),
        pa.table({name: [Decimal(repr(float(x))) for x in column] for name, column in frame().items()}),
    ],
    ids=[
        *("lists", "tuples", "f8", "columns first", "big endian", "frame", "f8 frame", "reversed", "shuffled", "index"),
        *("nothing masked", "arrow table", "record batch", "batch reader", "any capsule", "arrow index", "decimals"),
    ],
)
def test_the_same_rows_in_another_form_score_the_same(scorer: Scorer, rows: Any) -> None:
    assert scorer.decision_function(rows).tolist() == EXPECTED["scores"]


def test_what_is_masked_or_null_is_missing(scorer: Scorer) -> None:
    masked = np.ma.MaskedArray(ROWS.copy())
    masked[1, 2] = np.ma.masked
    columns = {name: pa.array(ROWS[:, i], mask=np.arange(len(ROWS)) == 3 * i) for i, name in enumerate(scorer.columns)}
    with pytest.raises(InputError, match=f"row 1, column {scorer.columns[2]!r} is nan"):
        scorer.decision_function(masked)
    with pytest.raises(InputError, match=f"row 0, column {scorer.columns[0]!r} is nan"):
        scorer.decision_function(pa.table(columns))
    categories = np.ma.MaskedArray(["a", "b", "c"], mask=[False, True, False])
    for check in (checked_categories, checked_ids):
        with pytest.raises(InputError, match="row 1 has no"):
            check(categories, 3)
        assert check(np.ma.MaskedArray(["a", "b"]), 2).tolist() == ["a", "b"]


def test_arrow_tables_that_do_not_fit_are_refused(scorer: Scorer) -> None:
    table = pa.Table.from_pandas(frame())
    for rows, words in (
        (table.append_column("more", pa.array(ROWS[:, 0])), "unknown column 'more'"),
        (table.drop_columns([scorer.columns[3]]), f"column {scorer.columns[3]!r} is missing"),
        (table.append_column(scorer.columns[0], pa.array(ROWS[:, 0])), "given twice"),
        (table.set_column(0, scorer.columns[0], pa.array(["a"] * len(ROWS))), "must hold numbers"),
        (table.column(0), "shape"),
    ):
        with pytest.raises(InputError, match=words):
            scorer.decision_function(rows)


def test_flags_are_not_decided_by_another_rate_where_fdr_is_none(scorer: Scorer) -> None:
    with pytest.raises(ConfigError, match="fdr is None"):
        scorer.discover(ROWS, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="eps is 2"):
        scorer.fpr_bands(2)


def test_whole_numbers_count_as_numbers(scorer: Scorer) -> None:
    whole = np.round(ROWS)
    expected = scorer.decision_function(whole)
    mixed = pd.DataFrame(whole, columns=list(scorer.columns)).astype(dict.fromkeys(scorer.columns[:5], np.int64))
    for rows in (whole.astype(np.int64), whole.astype(np.uint16), mixed, mixed.astype(np.int32)):
        np.testing.assert_array_equal(scorer.decision_function(rows), expected)


def test_a_row_is_scored_alone_as_among_others(scorer: Scorer) -> None:
    together = scorer.decision_function(np.concatenate([ROWS] * 50))
    assert together.tolist() == EXPECTED["scores"] * 50
    assert [float(scorer.decision_function(row[None])[0]) for row in ROWS] == EXPECTED["scores"]


def test_scoring_leaves_the_rows_alone(scorer: Scorer) -> None:
    rows = ROWS.copy()
    rows.setflags(write=False)
    table = frame()
    scorer.predict(rows)
    scorer.predict(table)
    pd.testing.assert_frame_equal(table, frame())


def test_columns_are_put_in_the_scorer_s_order() -> None:
    assert column_order(THREE, ["a", "b", "c"]) == [1, 0, 2]
    assert column_order(THREE, THREE) == [0, 1, 2]
    assert column_order((), []) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["a", "b"], "column 'c' is missing"),
        ([], "column 'b' is missing"),
        (["a", "b", "c", "d"], "unknown column 'd'"),
        (["a", "b", "C"], "unknown column 'C'"),
        (["a", "b", "c", "a"], "column 'a' is given twice"),
        (["c", "c", "b", "a"], "column 'c' is given twice"),
    ],
)
def test_columns_that_do_not_fit_are_named(given: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        column_order(THREE, given)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1, 2, 3], [1, 2]], "rows differ in length"),
        ([[1, 2, 3], 4], "rows differ in length"),
        ([1, 2, 3], r"shape \(3,\); expected \(n, 3\): 3 columns: b, a, c"),
        (5, r"shape \(\)"),
        ([], r"shape \(0,\)"),
        ([[]], r"shape \(1, 0\)"),
        ([[1, 2]], r"shape \(1, 2\)"),
        ([[[1, 2, 3]]], r"shape \(1, 1, 3\)"),
        ([["1", "2", "3"]], "must hold numbers, not <U1"),
        ([["a", 2, 3]], "must hold numbers"),
        ([[1, None, 3]], "must hold numbers, not object"),
        (None, "must hold numbers, not object"),
        ({"b": [1]}, "must hold numbers, not object"),
        ([[1j, 2, 3]], "must hold numbers, not complex128"),
        (np.array([["2026-01-01"] * 3], dtype="datetime64[D]"), "must hold numbers, not datetime64"),
        ([[1, 2, 3], [4, float("nan"), 6]], "row 1, column 'a' is nan"),
        ([[1, 2, float("inf")]], "row 0, column 'c' is inf"),
        ([[-float("inf"), 2, 3]], "row 0, column 'b' is -inf"),
    ],
)
def test_rows_that_do_not_fit_are_named(rows: Any, words: str) -> None:
    for precision in ("float32", "float64"):
        with pytest.raises(InputError, match=words):
            as_features(rows, THREE, casting(precision))


def test_only_a_scorer_that_casts_first_refuses_what_is_beyond_float32() -> None:
    rows = [[1, 2, 3], [4, 5, 1e39]]
    with pytest.raises(InputError, match=r"row 1, column 'c' is 1e\+39; values must be finite and fit float32"):
        as_features(rows, THREE, casting("float32"))
    assert as_features(rows, THREE, casting("float64")).tolist() == rows


@pytest.mark.parametrize(
    "number",
    [0, -0.0, 1e-45, 3.4028234e38, np.float16(1.5), np.uint64(2**64 - 1), np.longdouble(0.1), -(2**62)],
)
def test_what_fits_float32_is_taken(number: Any) -> None:
    for precision in (np.float32, np.float64):
        features = as_features([[number, 1, 2]], THREE, casting(precision.__name__))
        assert features.dtype == precision
        assert features[0, 0] == precision(number)


def test_many_columns_are_not_all_listed() -> None:
    with pytest.raises(InputError, match=r"100 columns: x0, x1, x2, x3, x4, x5, \.\.\.$"):
        as_features([[1]], [f"x{i}" for i in range(100)], casting("float64"))


def test_a_frame_that_does_not_fit_is_refused(scorer: Scorer) -> None:
    table, hole = frame(), frame()
    hole.loc[2, "mean area"] = np.nan
    with pytest.raises(InputError, match="column 'mean radius' is missing"):
        scorer.decision_function(table.drop(columns="mean radius"))
    with pytest.raises(InputError, match="unknown column 'target'"):
        scorer.decision_function(table.assign(target=0))
    with pytest.raises(InputError, match="unknown column '0'"):
        scorer.decision_function(pd.DataFrame(ROWS))
    with pytest.raises(InputError, match="column 'mean area' is given twice"):
        scorer.decision_function(pd.concat([table, table[["mean area"]]], axis=1))
    with pytest.raises(InputError, match="row 2, column 'mean area' is nan"):
        scorer.decision_function(hole[hole.columns[::-1]])
    with pytest.raises(InputError, match="must hold numbers"):
        scorer.decision_function(table.assign(**{"mean area": "large"}))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_changed_file_is_named_and_nothing_is_loaded(
    folder: Path, name: str, change: Callable[[Path], object]
) -> None:
    change(folder / name)
    head_is_no_json = name == "scorer.json" and change is not flip
    with pytest.raises(ScorerError if head_is_no_json else TamperedError, match=name):
        load_scorer(folder)


def test_no_byte_of_the_head_can_change(folder: Path) -> None:
    path = folder / "scorer.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 41):
        flip(path, place)
        with pytest.raises(AssayError, match=r"scorer\.json"):
            load_scorer(folder)
        path.write_bytes(whole)


def test_a_folder_under_another_version_s_name_is_refused(folder: Path) -> None:
    with pytest.raises(TamperedError, match=rf"begins with {PACKED.name}, not with 0123456789ab"):
        load_scorer(folder.rename(folder.parent / "0123456789ab"))


def test_a_folder_under_a_name_of_its_own_loads(folder: Path, scorer: Scorer) -> None:
    again = load_scorer(folder.rename(folder.parent / "exported scorer"))
    assert again.version == scorer.version
    assert again.decision_function(ROWS).tolist() == EXPECTED["scores"]


def test_the_version_depends_on_every_part(folder: Path) -> None:
    moved = repack(folder, lambda head: head.update(eps=0.1))
    assert moved.name != PACKED.name
    assert load_scorer(moved).predict(ROWS).tolist() == (np.array(EXPECTED["p_values"]) <= 0.1).tolist()


@pytest.mark.parametrize("part", ["scaler", "detector", "null_model", "strata", "adapter", "calibrator"])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    moved = repack(folder, lambda head: head["parts"].pop(part))
    with pytest.raises(ScorerError, match=f"has no part '{part}'"):
        load_scorer(moved)


@pytest.mark.parametrize(
    "damage", [None, [], "text", {"kind": "standard"}, {"kind": "standard", "config": {}, "odd": 1}]
)
def test_what_is_no_head_of_a_part_is_refused(folder: Path, damage: object) -> None:
    moved = repack(folder, lambda head: head["parts"].update(scaler=damage))
    with pytest.raises(ScorerError, match="has no part 'scaler'"):
        load_scorer(moved)
    moved = repack(moved, lambda head: head.update(parts=damage))
    with pytest.raises(ScorerError, match="has no part 'scaler'"):
        load_scorer(moved)


@pytest.mark.parametrize("config", [None, [], "text", {"odd": 1}, {"kind": "external", "config": None}])
@pytest.mark.parametrize("part", ["scaler", "detector", "null_model", "strata", "adapter", "calibrator"])
def test_a_part_with_a_damaged_configuration_is_refused(folder: Path, part: str, config: object) -> None:
    moved = repack(folder, lambda head: head["parts"][part].update(config=config))
    with pytest.raises(ScorerError, match=r"damaged|no scorer that Assay packaged"):
        load_scorer(moved)


@pytest.mark.parametrize("part", ["scaler", "detector", "null_model", "adapter", "calibrator"])
def test_a_part_of_an_unknown_kind_is_refused(folder: Path, part: str) -> None:
    """A kind is a name in a registry; nothing is imported for it."""
    moved = repack(folder, lambda head: head["parts"][part].update(kind="os.system"))
    with pytest.raises(ScorerError, match=r"os\.system"):
        load_scorer(moved)


@pytest.mark.parametrize("schema", [4, 0, "1", "3", None])
def test_another_schema_is_refused(folder: Path, schema: object) -> None:
    moved = repack(folder, lambda head: head.update(schema=schema))
    with pytest.raises(ScorerError, match=rf"has schema {schema!r}; this Assay reads 1, 2 and 3; install a newer one"):
        load_scorer(moved)


def written_anew(into: Path, **changes: Any) -> Path:
    """The frozen scorer as it is written today, with its statement."""
    head, statement = read_json(PACKED / "scorer.json"), read_statement(PACKED)
    parts = {
        name: Part(part["kind"], part["config"], read_arrays(PACKED / f"{name}.safetensors"))
        for name, part in head["parts"].items()
    }
    decides = {"columns": head["columns"], "eps": head["eps"], "unit": "row", "ties": "counted", "within": "all"}
    folder = into / write_scorer(into, {**decides, **changes}, parts)
    assert statement.rows is not None
    write_statement(
        folder,
        {name: statement.content[name] for name in ("name", "candidate")},
        data_version=statement.data_version,
        records=statement.records,
        rows=read_arrays(statement.rows),
    )
    return folder


def test_scorers_are_written_with_schema_3_and_say_the_same(tmp_path: Path) -> None:
    folder = written_anew(tmp_path)
    again = load_scorer(folder)
    assert again.head["schema"] == 3
    assert again.p_values(ROWS).tolist() == EXPECTED["p_values"]
    assert folder.name == hash_file(folder / "scorer.json")[:12] == again.version
    assert again.tag == f"breast_cancer:{folder.name}"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"eps": 1.5}, r"eps is 1.5; it must be a number between 0 and 1"),
        ({"eps": 0}, r"eps is 0; it must be"),
        ({"eps": "0.05"}, r"eps is '0.05'; it must be"),
        ({"columns": []}, r"columns is \[\]; it must be a list of different names"),
        ({"columns": ["a", "a"]}, r"columns is \['a', 'a'\]; it must be a list of different names"),
        ({"columns": None}, r"columns is None; it must be"),
        ({"ties": "never"}, r"ties is 'never'; it must be"),
        ({"category_column": 3}, r"category_column is 3; it must be"),
        ({"unit": ["row"]}, r"unit is \['row'\]; it must be"),
        ({"columns": ["a", "b"]}, r"the parts of .* do not fit each other: "),
    ],
)
def test_a_head_with_values_that_decide_nothing_is_refused(folder: Path, damage: dict[str, Any], words: str) -> None:
    moved = repack(folder, lambda head: head.update(damage))
    with pytest.raises(ScorerError, match=words):
        load_scorer(moved)


def test_every_file_that_is_loaded_has_its_hash_in_the_head(folder: Path) -> None:
    moved = repack(folder, lambda head: head["files"].pop("detector.safetensors"))
    with pytest.raises(ScorerError, match=r"has no hash of detector\.safetensors; nothing was loaded"):
        load_scorer(moved)
    moved = repack(moved, lambda head: head["files"].update({"../detector.safetensors": "0"}))
    with pytest.raises(ScorerError, match=r"lists '\.\./detector\.safetensors', which is not in its folder"):
        load_scorer(moved)


@pytest.mark.parametrize("k", [0, -1, 2**31 - 1])
def test_a_number_of_neighbours_that_would_end_the_process_is_refused(folder: Path, k: int) -> None:
    arrays = read_arrays(folder / "detector.safetensors")
    write_arrays(folder / "detector.safetensors", {**arrays, "n_neighbors": np.array([k], dtype=np.int32)})
    digest = hash_file(folder / "detector.safetensors")
    moved = repack(folder, lambda head: head["files"].update({"detector.safetensors": digest}))
    with pytest.raises(ScorerError, match=rf"its array 'n_neighbors' holds values from {k} to {k}"):
        load_scorer(moved)


def test_ties_decide_and_belong_to_the_version(tmp_path: Path) -> None:
    counted, randomised = written_anew(tmp_path), written_anew(tmp_path, ties="randomised")
    assert counted.name != randomised.name
    assert load_scorer(randomised).reference.ties == "randomised"


@pytest.mark.parametrize("answers", [2, None, "1", 1.0])
def test_answers_of_a_newer_assay_are_refused(tmp_path: Path, answers: object) -> None:
    """It would answer otherwise, if only in the last bit."""
    folder = written_anew(tmp_path)
    head = read_json(folder / "scorer.json")
    assert head["answers"] == ANSWERS == 1
    write_json(folder / "scorer.json", {**head, "answers": answers})
    with pytest.raises(ScorerError, match=rf"has answers {answers!r}, and this Assay knows up to 1"):
        load_scorer(folder)


def test_a_head_that_is_nested_too_deeply_is_a_damaged_scorer(folder: Path) -> None:
    (folder / "scorer.json").write_text("[" * 100_000)
    for read in (load_scorer, check_files):
        with pytest.raises(ScorerError, match=r"scorer\.json is not valid JSON"):
            read(folder)


def test_a_scorer_holds_json_and_safetensors_only() -> None:
    assert {Path(name).suffix for name in FILES} == {".json", ".safetensors"}
    assert set(FILES) == {"scorer.json", *read_json(PACKED / "scorer.json")["files"]}


def test_a_folder_without_a_head_is_no_scorer(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ScorerError, match="is not a scorer folder"):
            load_scorer(folder)


VERSIONS = ("27aaaaaaaaaa", "27ab00000000", "900000000000")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of three scorers, one of them in BentoML's store alone, one kept as well, and a champion."""
    monkeypatch.delenv("BENTOML_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    for store, version in zip(("work/package", ".bentoml/models", "work/package"), VERSIONS, strict=True):
        write_json(tmp_path / store / "clinic" / version / "scorer.json", {})
    write_json(tmp_path / ".bentoml/models/clinic" / VERSIONS[0] / "scorer.json", {})
    write_json(tmp_path / "scorers/clinic" / VERSIONS[2] / "scorer.json", {})
    write_bytes(tmp_path / "scorers/clinic/333333333333.dvc", b"outs: []\n")
    (tmp_path / "work/package/clinic/90ffffffffff").mkdir()
    (tmp_path / ".bentoml/models/clinic/latest").write_text(VERSIONS[1])
    make_champion(tmp_path, VERSIONS[1])
    return tmp_path


def make_champion(root: Path, version: str) -> None:
    promote(root, "clinic", version, statement=version, bento="", reason="")


@pytest.mark.parametrize("tag", [None, 3, b"digits"])
def test_what_cannot_be_a_tag_is_refused(tag: Any) -> None:
    with pytest.raises(ScorerError, match="named by its tag or its folder"):
        assay.load(tag)
    with pytest.raises(ScorerError, match="named by its tag or its folder"):
        find_scorer(tag)


def test_a_tag_finds_its_scorer(root: Path) -> None:
    here, published = root / "work/package/clinic", root / ".bentoml/models/clinic"
    kept = root / "scorers/clinic" / VERSIONS[2]
    assert find_scorer(f"clinic:{VERSIONS[0]}", root) == here / VERSIONS[0]
    assert find_scorer(f"clinic:{VERSIONS[1]}", root) == published / VERSIONS[1]
    assert find_scorer("clinic:27aa", root) == here / VERSIONS[0]
    assert find_scorer("clinic:9", root) == kept
    assert find_scorer("clinic:9") == kept


def test_a_name_alone_is_its_champion(root: Path) -> None:
    assert find_scorer("clinic", root).name == VERSIONS[1]
    make_champion(root, VERSIONS[2])
    assert find_scorer("clinic", root).name == VERSIONS[2]


def test_a_folder_is_itself(root: Path) -> None:
    path = root / "work/package/clinic" / VERSIONS[0]
    assert find_scorer(path) == path
    assert find_scorer(str(path)) == path
    assert find_scorer(os.path.relpath(path, root)).resolve() == path


def test_bentoml_s_own_home_is_obeyed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(root / "elsewhere"))
    write_json(root / "elsewhere/models/clinic/555555555555/scorer.json", {})
    assert find_scorer("clinic:5", root) == root / "elsewhere/models/clinic/555555555555"
    with pytest.raises(ScorerError, match="there is no scorer"):
        find_scorer(f"clinic:{VERSIONS[1]}", root)


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("clinic:27", "2 scorers are called 'clinic:27'"),
        ("clinic:27a", "2 scorers are called 'clinic:27a'"),
        ("clinic:8", "there is no scorer 'clinic:8'"),
        ("clinic:3", r"clinic:333333333333 is tracked by scorers/clinic/333333333333\.dvc, but its folder is not here"),
        ("clinic:90f", "there is no scorer"),
        ("digits:27aa", "there is no scorer"),
        ("digits", "there is no champion of that name"),
        ("", "'' is no scorer folder, and there is no champion"),
        (f"clinic:{VERSIONS[0]}0", "neither a scorer folder nor name:version"),
        ("clinic:latest", "neither a scorer folder nor name:version"),
        ("clinic:27AA", "neither a scorer folder nor name:version"),
        ("clinic:*", "neither a scorer folder nor name:version"),
        ("clinic:?7aaaaaaaaaa", "neither a scorer folder nor name:version"),
        ("clinic:[2]7aa", "neither a scorer folder nor name:version"),
        ("clinic:../clinic/27aa", "neither a scorer folder nor name:version"),
        ("clin*:27aa", "neither a scorer folder nor name:version"),
        ("*:9", "neither a scorer folder nor name:version"),
        ("../clinic:9", "neither a scorer folder nor name:version"),
        ("../scorers/clinic:9", "neither a scorer folder nor name:version"),
        ("/clinic:9", "neither a scorer folder nor name:version"),
        ("clinic:9:1", "neither a scorer folder nor name:version"),
        ("clinic:9\n", "neither a scorer folder nor name:version"),
        ("Clinic:9", "neither a scorer folder nor name:version"),
        ("../deployments/clinic", "is no scorer folder|neither a scorer folder"),
        ("work/package/clinic", "there is no champion of that name"),
    ],
)
def test_what_is_no_tag_finds_nothing(root: Path, tag: str, words: str) -> None:
    with pytest.raises(ScorerError, match=words):
        find_scorer(tag, root)


@pytest.mark.parametrize(("value", "kind"), [(0, pa.timestamp("s", "No/Where")), (4_000_000, pa.date32())])
def test_dates_of_arrow_that_python_cannot_hold_are_refused(value: int, kind: pa.DataType) -> None:
    with pytest.raises(InputError, match="a date or a time that cannot be read"):
        as_rows(pa.table({"a": pa.array([value], kind)}))


def test_a_whole_number_beyond_float64_is_refused() -> None:
    encoder = Encoder(1, {}, (0,)).fit(np.array([[1.0], [2.0]]))
    with pytest.raises(InputError, match="row 1, column 'a' is beyond float64"):
        as_features([[1], [10**400]], ["a"], encoder)
