"""A scorer is named by its answers; where it comes from is in statements beside it, each sealed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.integration.test_calibration import COLUMNS, NAME, make_project, plant, run, settings
from tests.sealing import copy_scorer, learned_rows, package_by_other_code, restate, without_first

import assay
from assay.data.dataset import read_dataset
from assay.errors import ScorerError, TamperedError
from assay.hashing import hash_tree
from assay.ledger.who_saw import who_saw
from assay.parts import read_json, write_json
from assay.pipeline.learned import learned_by
from assay.project.deployment import promote
from assay.project.layout import Project
from assay.project.scorers import Packaged, find_packaged, find_scorer, list_scorers, statements_of
from assay.release.champion import clean_statement
from assay.scorer.loading import load_scorer
from assay.scorer.statement import Statement, read_statement, statement_ids

QUICK: dict[str, Any] = {
    "detectors": {"isolation_forest": {"n_estimators": 3}, "knn": {}, "mcd": {}},
    "adapters": ["cadet"],
}


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_HOME", raising=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a scorer."""
    project = make_project(tmp_path_factory.mktemp("statements") / "project", plant(1000, 0), **QUICK)
    run(project)
    return project.root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Project:
    """A copy, to be changed."""
    return Project(Path(shutil.copytree(made, tmp_path / "project")))


def folder_of(project: Project) -> Path:
    (folder,) = (path for path in project.folder("package").iterdir() if path.is_dir())
    return folder


def again(project: Project) -> Packaged:
    """Make the scorer once more, by other code, and keep both statements in one folder outside work/."""
    kept = project.root / ".bentoml/models" / NAME / folder_of(project).name
    copy_scorer(folder_of(project), kept)
    package_by_other_code(project)
    copy_scorer(folder_of(project), kept)
    return find_packaged(kept)


def tag_of(project: Project) -> str:
    return f"{NAME}:{folder_of(project).name}"


def make_champion(project: Project, statement: str) -> None:
    version = folder_of(project).name
    promote(project.root, NAME, version, statement=statement, bento="", reason="")


def test_other_code_leaves_a_scorer_its_name_and_adds_a_statement(project: Project) -> None:
    before, files = folder_of(project), hash_tree(folder_of(project))
    (first,) = statement_ids(before)
    package_by_other_code(project)
    after = folder_of(project)
    (second,) = statement_ids(after)
    assert after.name == before.name
    assert first != second
    of_scorer = {name: digest for name, digest in files.items() if not name.endswith(f"{first}.json")}
    assert of_scorer.items() <= hash_tree(after).items()
    assert "src/assay/other.py" in read_statement(after).content["records"]["train"]["code"]


def test_what_decides_the_answers_renames_a_scorer(project: Project) -> None:
    before = folder_of(project).name
    run(settings(project, **QUICK, eps=0.2))
    assert folder_of(project).name != before
    assert read_json(folder_of(project) / "scorer.json")["eps"] == 0.2


def test_the_head_holds_what_decides_and_nothing_else(project: Project) -> None:
    head = read_json(folder_of(project) / "scorer.json")
    assert set(head) == {
        *("schema", "answers", "columns", "modality", "image_shape", "eps", "unit", "within", "ties", "promise"),
        *("guarantee", "limits", "parts", "files"),
    }
    assert all(name.endswith(".safetensors") for name in head["files"])
    scorer = load_scorer(folder_of(project))
    assert (scorer.guarantee, scorer.limits) == (head["guarantee"], head["limits"])
    assert scorer.calibrator.guarantee == head["guarantee"]


def test_a_statement_says_all_of_where_a_scorer_comes_from(project: Project) -> None:
    statement = read_statement(folder_of(project))
    assert set(statement.records) == {"split", "contaminate", "validate", "train", "calibrate", "select"}
    work = project.root / "work" / NAME
    for stage, content in statement.records.items():
        assert content in [path.read_bytes() for path in (work / stage).rglob("record.json")]
    (calibration, *_) = (work / "calibrate").rglob("calibration.json")
    assert statement.calibration == read_json(calibration)
    selection = read_json(project.folder("select") / "selection.json")
    assert statement.content["selection"] == selection["candidates"][selection["winner"]]
    assert {use for use in learned_rows(folder_of(project)) if "." not in use} == {"train", "adapt", "calibration"}


def test_a_second_statement_touches_nothing_of_the_scorer(project: Project) -> None:
    folder = folder_of(project)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    restate(folder, content=lambda content: content.update(note="reached again"))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before if path.suffix == ".json"} == {
        path: value for path, value in before.items() if path.suffix == ".json"
    }
    assert all(path.read_bytes() == content for path, (content, _) in before.items())
    assert len(statement_ids(folder)) == 2


def test_either_statement_is_found_by_its_tag(project: Project) -> None:
    (first,) = statement_ids(folder_of(project))
    both = again(project)
    (second,) = statement_ids(folder_of(project))
    assert {each.id for each in statements_of(project.root, NAME, both.statement.version)} == {first, second}
    for statement in (first, second):
        found = find_packaged(f"{tag_of(project)}-{statement[:8]}", project.root)
        assert found.statement.id == statement
        assert find_scorer(f"{tag_of(project)}-{statement}", project.root) == folder_of(project)
    with pytest.raises(ScorerError, match=f"there is no statement 000 .*there are .*{first}"):
        find_packaged(f"{tag_of(project)}-000", project.root)
    assert find_packaged(tag_of(project), project.root).statement.id in (first, second)
    for statement in (first, second):
        make_champion(project, statement)
        assert find_packaged(NAME, project.root).statement.id == statement
        assert find_packaged(tag_of(project), project.root).statement.id == statement
        (row,) = list_scorers(project.root)
        assert (row["champion"], row["statement"]) == (True, statement)
        assert {each["statement"]: each["deployed"] for each in row["statements"]} == {
            first: statement == first,
            second: statement == second,
        }


def test_the_champion_is_loaded_with_its_statement(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    both = again(project)
    monkeypatch.chdir(project.root)
    for statement in statement_ids(both.folder):
        make_champion(project, statement)
        assert assay.load(NAME).statement.id == statement


def spoil_seal(statement: Statement) -> str:
    statement.path.write_bytes(statement.path.read_bytes().replace(b'"cadet"', b'"none"'))
    return "was changed: its hash begins with"


def spoil_rows(statement: Statement) -> str:
    assert statement.rows is not None
    statement.rows.write_bytes(statement.rows.read_bytes()[:-1] + b"\0")
    return "the rows that the scorer learned from, was changed"


def lose_rows(statement: Statement) -> str:
    assert statement.rows is not None
    statement.rows.unlink()
    return "the rows that the scorer learned from, is missing"


def reword_head(statement: Statement) -> str:
    """Change the scorer and name its folder for that, but leave the statement as it is."""
    head = statement.path.parents[1] / "scorer.json"
    write_json(head, {**read_json(head), "eps": 0.3})
    return "is about another scorer"


@pytest.mark.parametrize("spoil", [spoil_seal, spoil_rows, lose_rows, reword_head])
def test_a_broken_seal_is_told_and_nothing_is_loaded(project: Project, spoil: Any) -> None:
    folder = Path(shutil.copytree(folder_of(project), project.root / "exported"))
    told = spoil(read_statement(folder))
    with pytest.raises(TamperedError, match=told):
        load_scorer(folder)


def test_a_forged_record_in_a_statement_of_its_own_is_told(project: Project) -> None:
    """Its hash is right, but not those of the records that it lists."""
    folder = Path(shutil.copytree(folder_of(project), project.root / "exported"))
    statement = read_statement(folder)
    content = read_json(statement.path)
    content["records"]["train"]["params"] = {}
    write_json(folder / "forged.json", content)
    from assay.hashing import hash_file

    (folder / "forged.json").rename(statement.path.with_name(f"{hash_file(folder / 'forged.json')[:12]}.json"))
    statement.path.unlink()
    with pytest.raises(TamperedError, match="lists other hashes than those of the records in it"):
        load_scorer(folder)


def test_a_broken_copy_does_not_stand_in_the_way_of_the_whole_one(project: Project) -> None:
    both = again(project)
    (both.folder / "scorer.json").write_text("{")
    (statement,) = statement_ids(folder_of(project))
    assert find_packaged(tag_of(project), project.root).statement.id == statement
    (row,) = list_scorers(project.root)
    assert (row["broken"], row["statement"]) == (None, statement)
    (folder_of(project) / "scorer.json").write_text("{")
    with pytest.raises(ScorerError, match="is not valid JSON"):
        find_packaged(tag_of(project), project.root)


def test_a_scorer_without_a_statement_is_not_loaded(project: Project) -> None:
    folder = Path(shutil.copytree(folder_of(project), project.root / "exported"))
    shutil.rmtree(folder / "statements")
    for read in (load_scorer, find_packaged):
        with pytest.raises(ScorerError, match="has no statement"):
            read(folder)
    shutil.rmtree(folder)
    shutil.copytree(folder_of(project), folder)
    (folder / "scorer.json").unlink()
    with pytest.raises(ScorerError, match="is not a scorer folder"):
        load_scorer(folder)


def test_another_scorer_is_not_copied_over_one(project: Project, tmp_path: Path) -> None:
    target = tmp_path / "kept"
    copy_scorer(folder_of(project), target)
    assert hash_tree(target) == hash_tree(folder_of(project))
    run(settings(project, **QUICK, eps=0.2))
    with pytest.raises(TamperedError, match="is not that of"):
        copy_scorer(folder_of(project), target)


def test_rows_of_all_statements_of_a_scorer_are_its_rows(project: Project) -> None:
    """And the answer says by which statement it learned from which."""
    folder = folder_of(project)
    version, (first,) = folder.name, statement_ids(folder)
    rows = learned_rows(folder)
    dropped = rows["train"][:3]
    kept = project.root / ".bentoml/models" / NAME / version
    copy_scorer(folder, kept)
    second = restate(kept, rows=without_first(rows, 3), records=lambda each: each["split"].update(seen=1))
    shutil.rmtree(project.state)
    shutil.rmtree(project.root / "work")
    asked = pd.DataFrame({"fingerprint": [row.tobytes().hex() for row in [*dropped, *rows["train"][3:7]]]})
    asked.to_csv(project.root / "asked.csv", index=False)
    (scorer,) = who_saw(project, project.root / "asked.csv").scorers
    assert scorer["uses"] == {"train": {"rows": 7, "stored": 7}}
    assert scorer["statements"] == sorted([first, second])
    asked.head(3).to_csv(project.root / "asked.csv", index=False)
    promote(project.root, NAME, version, statement=second, bento="", reason="")
    answer = who_saw(project, project.root / "asked.csv")
    (scorer,) = answer.scorers
    assert (scorer["uses"], scorer["statements"]) == ({"train": {"rows": 3, "stored": 3}}, [first])
    assert (scorer["champion"], scorer["deployed"]) == (True, second)
    assert any(f"by statement {first}; deployed by {second}" in line for line in answer.lines())


def test_a_deployed_statement_is_clean_or_another_one_is(project: Project) -> None:
    folder = folder_of(project)
    first = read_statement(folder)
    second = read_statement(folder, restate(folder, rows=without_first(learned_rows(folder), 2)))
    learned = learned_by(first)
    train = learned[learned["use"] == "train"].astype({"copy": "str"})
    assert clean_statement(first, [first, second], train[:2]) == second.id
    assert clean_statement(second, [first, second], train[:2]) is None
    assert clean_statement(first, [first], train[:2]) is None
    assert clean_statement(first, [first, second], train[:0]) is None
    assert clean_statement(first, [first, second], train[:3]) is None


def test_the_same_rows_give_the_same_answers_whatever_the_statement(project: Project) -> None:
    both = again(project)
    data = read_dataset(project.data).data.features[:50]
    frame = pd.DataFrame(data, columns=list(COLUMNS))
    first, second = (load_scorer(both.folder, each).judge(frame) for each in statement_ids(both.folder))
    assert first.p_values.tolist() == second.p_values.tolist()
    assert first.scores.tolist() == second.scores.tolist()
