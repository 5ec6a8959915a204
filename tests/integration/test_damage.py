"""Damaged files and odd input are named in one line, and hide nothing else."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.conftest import Checkout
from tests.sealing import restate

from assay.audit.commits import commit_with
from assay.audit.verify import verify_scorer
from assay.errors import AssayError, ConfigError, ScorerError, TamperedError
from assay.eventlog import EventLog
from assay.hashing import hash_file
from assay.parts import Part, read_arrays, read_json, read_part, write_json, write_part
from assay.project.config import read_params
from assay.project.layout import Project
from assay.project.versioning import committed_version, head_commit
from assay.scorer.loading import load_scorer
from assay.scorer.statement import read_statement

FROZEN = Path(__file__).parents[1] / "frozen" / "scorer-1"
(PACKED,) = (path.parent for path in FROZEN.glob("*/scorer.json"))
ROWS = np.array(read_json(FROZEN / "expected.json")["features"], dtype=np.float32)


def three(tmp_path: Path) -> EventLog:
    log = EventLog(tmp_path / "events.jsonl")
    for name in "abc":
        log.append(name)
    return log


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_HOME", raising=False)


# events.py -----------------------------------------------------------------------------------------------


def test_a_byte_that_is_no_utf8_is_tampering(tmp_path: Path) -> None:
    log = three(tmp_path)
    content = bytearray(log.path.read_bytes())
    content[30] ^= 0x80
    log.path.write_bytes(bytes(content))
    with pytest.raises(TamperedError):
        log.check()


def broken_log(project: Checkout) -> None:
    """Flip one bit of the first entry so that it is no JSON any more."""
    path = project.root / ".assay/events.jsonl"
    content = bytearray(path.read_bytes())
    content[content.index(b'"key"')] ^= 1
    path.write_bytes(bytes(content))


def test_a_broken_entry_stops_a_stage_without_a_traceback(finished: Checkout) -> None:
    broken_log(finished)
    done = finished.assay("stage", "split", code=5)
    assert "Traceback" not in done.stderr


def test_a_broken_entry_is_named_by_the_audit(finished: Checkout) -> None:
    broken_log(finished)
    done = finished.assay("audit", "verify", "breast_cancer", code=1)
    assert "Traceback" not in done.stderr
    assert "differs    event log" in done.stdout


@pytest.mark.parametrize(
    ("path", "command", "code"),
    [
        ("scorers/breast_cancer/*/scorer.json", ("score", "r.csv", "--out", "s.csv"), 1),
        ("scorers/breast_cancer/*/scorer.json", ("audit", "show", "breast_cancer"), 1),
        ("scorers/breast_cancer/*/scorer.json", ("audit", "verify", "breast_cancer"), 1),
        ("scorers/breast_cancer/*/scorer.json", ("scorers",), 0),
        ("work/breast_cancer/split/record.json", ("stage", "split"), 5),
        ("work/breast_cancer/evaluate/record.json", ("audit", "verify", "breast_cancer"), 1),
        ("data/breast_cancer/card.json", ("audit", "verify", "breast_cancer"), 1),
        ("expectations/breast_cancer.json", ("stage", "validate"), 2),
        ("deployments/breast_cancer.json", ("audit", "show", "breast_cancer"), 1),
        (".assay/events.jsonl", ("stage", "split"), 5),
        ("params.yaml", ("run",), 2),
        ("dvc.yaml", ("run",), 2),
        ("data.dvc", ("ingest", "digits"), 2),
    ],
)
def test_json_nested_without_end_is_a_damaged_file(
    finished: Checkout, path: str, command: tuple[str, ...], code: int
) -> None:
    (damaged,) = finished.root.glob(path)
    damaged.unlink()
    damaged.write_text("[" * 100_000 + "\n")
    done = finished.assay(*command, code=code)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1
    told = done.stdout + done.stderr
    assert damaged.name in told or damaged.parent.name in told


# git -----------------------------------------------------------------------------------------------------


def test_without_git_the_audit_says_that_commits_are_unknown(finished: Checkout) -> None:
    alone = str(Path(sys.executable).parent)
    assert shutil.which("git", path=alone) is None
    told = finished.assay("audit", "show", "breast_cancer", PATH=alone).stdout
    (origin,) = (line for line in told.splitlines() if line.startswith("origin: "))
    assert "git is not installed here" in origin
    suite = finished.root / "expectations/breast_cancer.json"
    suite.write_text(suite.read_text() + "\n")
    told = finished.assay("audit", "verify", "breast_cancer", PATH=alone, code=6).stdout
    (wrong,) = (line for line in told.splitlines() if line.startswith("unchecked"))
    assert "no Git commit holds the recorded one (git is not installed here" in wrong


def test_a_project_without_git_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert head_commit(tmp_path) == ""
    assert committed_version(tmp_path) is None
    assert commit_with(tmp_path, "params.yaml", "0" * 64) is None


# audit.py ------------------------------------------------------------------------------------------------


def scorer_folder(project: Checkout) -> Path:
    (folder,) = (path for path in (project.root / "scorers/breast_cancer").iterdir() if path.is_dir())
    return folder


def test_a_missing_file_of_the_scorer_is_named(finished: Checkout) -> None:
    (scorer_folder(finished) / "detector.safetensors").unlink()
    found = {f.what: f for f in verify_scorer(Project(finished.root), "breast_cancer").items}
    assert "detector.safetensors is missing" in found["scorer folder"].detail


def test_a_missing_list_of_rows_is_named(finished: Checkout) -> None:
    rows = read_statement(scorer_folder(finished)).rows
    assert rows is not None
    rows.unlink()
    found = {f.what: f for f in verify_scorer(Project(finished.root), "breast_cancer").items}
    assert found["statement"].state == "differs"
    assert f"{rows.name}, the rows that the scorer learned from, is missing" in found["statement"].detail


def test_a_broken_statement_hides_neither_scorer_nor_log(finished: Checkout) -> None:
    read_statement(scorer_folder(finished)).path.write_bytes(b"{")
    found = {f.what: f.state for f in verify_scorer(Project(finished.root), "breast_cancer").items}
    assert found == {"scorer folder": "ok", "event log": "ok", "statement": "differs"}


def test_a_scorer_without_its_statement_does_not_verify(finished: Checkout) -> None:
    """Nor does a statement without its scorer."""
    folder = Path(shutil.copytree(scorer_folder(finished), finished.root / "exported"))
    assert finished.assay("audit", "verify", "./exported").stdout.splitlines()[-1].endswith(": intact")
    (folder / "statements").rename(finished.root / "elsewhere")
    told = finished.assay("audit", "verify", "./exported", code=1).stdout
    assert "differs    statement: cannot be read: " in told
    assert "has no statement" in told
    (finished.root / "elsewhere").rename(folder / "statements")
    (folder / "scorer.json").unlink()
    assert "is no scorer folder" in finished.assay("audit", "verify", "./exported", code=1).stderr


def test_data_that_a_killed_command_left_half_filled_are_missing_not_other_data(finished: Checkout) -> None:
    for path in (finished.root / "data" / "breast_cancer").iterdir():
        path.unlink()
    write_json(finished.root / ".assay/checkout.json", ["data"])
    findings = json.loads(finished.assay("audit", "verify", "breast_cancer", "--json", code=6).stdout)["findings"]
    assert {each["state"] for each in findings} == {"ok", "not here"}
    assert not (finished.root / "data").exists()


@pytest.mark.parametrize("lost", [(), ("train",)], ids=["one more", "another instead"])
def test_a_stage_of_another_version_is_called_that(finished: Checkout, lost: tuple[str, ...]) -> None:
    """A stage "refine" between train and calibrate, or in place of train."""
    (packed,) = (path.parent for path in (finished.root / "work/package/breast_cancer").glob("*/scorer.json"))
    folder = Path(shutil.copytree(packed, finished.root / "other"))

    def refine(records: dict[str, Any]) -> None:
        records["refine"] = json.loads(json.dumps(records["train"]).replace('"train"', '"refine"'))
        records["calibrate"] = json.loads(json.dumps(records["calibrate"]).replace("/train/", "/refine/"))
        for stage in lost:
            del records[stage]

    before = read_statement(folder)
    restate(folder, records=refine)
    before.path.unlink()
    told = "not known to this version of Assay; use the version that made the scorer"
    shown = finished.assay("audit", "show", "./other", "--html", "page.html").stdout.splitlines()
    place = next(number for number, line in enumerate(shown) if line.startswith("Stage refine"))
    assert "differs" in shown[place]
    assert shown[place + 1].strip() == told
    assert any(line.split()[:2] == ["reads", "refine:"] for line in shown)
    assert "Calibrate reads" in (page := (finished.root / "page.html").read_text())
    assert "of Stage refine" in page
    assert f"stage refine: {told}" in finished.assay("audit", "verify", "./other", code=1).stdout
    version = hash_file(folder / "scorer.json")[:12]
    for arguments in (
        ("replay", "./other"),
        ("diff", "breast_cancer", "./other"),
        ("diff", "./other", "breast_cancer"),
    ):
        (line,) = finished.assay("audit", *arguments, code=1).stderr.splitlines()
        assert line == f"assay: stage refine of breast_cancer:{version}: {told}"


def test_newer_data_alone_do_not_make_the_champion_tampered(finished: Checkout) -> None:
    """data/ and the stages whose inputs moved on by logged steps are superseded, as the docstring says."""
    finished.params((finished.root / "params.yaml").read_text().replace("train: {seed: 0", "train: {seed: 7"))
    finished.assay("stage", "train")
    told = finished.assay("audit", "verify", "breast_cancer").stdout
    states = {line[11:].partition(":")[0]: line.split()[0] for line in told.splitlines()}
    moved = ["stage train", "stage calibrate", "stage select", "stage evaluate"]
    assert [what for what, state in states.items() if state == "superseded"] == moved


def test_a_flipped_byte_in_the_bento_is_told(finished: Checkout) -> None:
    version = read_statement(scorer_folder(finished)).tag.partition(":")[2]
    path = finished.root / ".bentoml/bentos/assay-breast_cancer" / version / "src/assay/cli/main.py"
    path.write_bytes(path.read_bytes() + b"\n")
    told = finished.assay("audit", "verify", "breast_cancer", code=1).stdout
    assert "differs    Bento" in told
    assert "1 differ" in told


def test_the_package_record_is_checked(finished: Checkout) -> None:
    path = finished.root / "work/package/breast_cancer/record.json"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content.replace(b'"schema": 1', b'"schema": 3'))
    told = finished.assay("audit", "verify", "breast_cancer", code=1).stdout
    assert f"differs    stage package: {path}" in told
    assert "1 differ" in told


# scorer.py, parts.py -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "Int64", "Float64", "boolean"])
def test_columns_that_ingest_takes_can_be_scored(dtype: str) -> None:
    """`assay ingest` takes booleans as 0 and 1, and nullable numbers; a frame with one such column is refused."""
    scorer = load_scorer(PACKED)
    table = pd.DataFrame(np.round(ROWS), columns=list(scorer.columns))
    column = table.columns[0]
    expected = scorer.decision_function(table.assign(**{column: 1.0}))
    table[column] = pd.array([1] * len(table), dtype=dtype)
    np.testing.assert_array_equal(scorer.decision_function(table), expected)


@pytest.mark.parametrize("content", ["[]", '{"schema": 1}', '{"schema": 1, "files": []}'])
def test_a_head_of_another_shape_is_a_scorer_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "scorer.json").write_text(content)
    with pytest.raises(AssayError, match=r"scorer\.json"):
        load_scorer(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"kind": "knn"}'])
def test_a_part_of_another_shape_is_a_scorer_error(tmp_path: Path, content: str) -> None:
    write_part(tmp_path, "p", Part("knn"))
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(ScorerError, match=r"p\.json"):
        read_part(tmp_path, "p")


def test_a_changed_head_is_seen_from_inside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(PACKED, tmp_path / PACKED.name))
    head = read_json(folder / "scorer.json")
    write_json(folder / "scorer.json", {**head, "eps": 0.5})
    monkeypatch.chdir(folder)
    with pytest.raises(TamperedError):
        load_scorer(Path())


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_a_dtype_that_numpy_lacks_is_a_scorer_error(tmp_path: Path, dtype: str) -> None:
    head = json.dumps({"a": {"dtype": dtype, "shape": [2], "data_offsets": [0, 4 if dtype == "BF16" else 2]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(4 if dtype == "BF16" else 2))
    with pytest.raises(ScorerError, match=r"x\.safetensors"):
        read_arrays(path)


def test_an_array_without_axes_keeps_its_shape(tmp_path: Path) -> None:
    write_part(tmp_path, "p", Part("k", {}, {"x": np.array(3.0)}))
    assert read_part(tmp_path, "p").arrays["x"].shape == ()


# messages ------------------------------------------------------------------------------------------------


def test_params_that_are_no_utf8_are_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes("dataset: x # café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        read_params(tmp_path / "params.yaml")


def test_broken_yaml_is_told_on_one_line(checkout: Checkout) -> None:
    checkout.params("dataset: [\n")
    assert len(checkout.assay("run", code=2).stderr.splitlines()) == 1


def test_a_ragged_csv_is_told_on_one_line(finished: Checkout) -> None:
    (finished.root / "r.csv").write_text("a,b\n1,2\n3,4,5,6\n")
    assert len(finished.assay("ingest", "r.csv", "--name", "r", code=2).stderr.splitlines()) == 1


def test_the_advice_for_a_changed_output_works_as_printed(finished: Checkout) -> None:
    path = finished.root / "work/breast_cancer/select/selection.json"
    path.write_bytes(path.read_bytes() + b"\n")
    told = finished.assay("stage", "select", code=5).stderr
    advice = next(part for part in told.split("`") if part.startswith("dvc checkout"))
    assert finished.call(*advice.split()).returncode == 0
    finished.assay("stage", "select")
