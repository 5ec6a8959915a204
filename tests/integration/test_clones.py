"""Several people, one project: clones bring champions and data back, and merge what others ingested and promoted."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import Checkout
from tests.sealing import restate

from assay.data.files import read_table
from assay.errors import DataError, ScorerError, TamperedError
from assay.hashing import hash_file, hash_tree
from assay.parts import read_json, write_bytes, write_json
from assay.project.collecting import collect_garbage, locate
from assay.project.comparisons import Comparison, add_comparison, read_comparisons
from assay.project.creation import create
from assay.project.deployed import bring_back, is_tracked, keep_scorer
from assay.project.deployment import promote
from assay.project.ingest import ingest, restore
from assay.project.layout import Project
from assay.project.scorers import find_scorer, list_scorers
from assay.scorer.loading import load_scorer
from assay.scorer.statement import statement_ids

FROZEN = Path(__file__).parents[1] / "frozen" / "scorer-2" / "48a06e1d08e1"
(SEALED,) = (path.parent for path in (FROZEN.parents[1] / "scorer-3").glob("*/scorer.json"))


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_HOME", raising=False)


def git(root: Path, *arguments: str, code: int = 0) -> str:
    who = ("-c", "user.name=tests", "-c", "user.email=tests@example.org", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def dvc(root: Path, *arguments: str) -> str:
    done = Checkout(root).call("dvc", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def packaged(root: Path, name: str, eps: float) -> Path:
    """Put a scorer of that name where a run packages it; another eps makes another version."""
    folder = root / "work/package" / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(FROZEN, folder / "new")
    head = read_json(folder / "new" / "scorer.json")
    write_json(folder / "new" / "scorer.json", {**head, "name": name, "eps": eps})
    return (folder / "new").rename(folder / hash_file(folder / "new" / "scorer.json")[:12])


def deploy(root: Path, name: str, eps: float) -> str:
    """Package a scorer and make it the champion, as a run does; return its version."""
    folder = packaged(root, name, eps)
    keep_scorer(root, folder)
    promote(root, name, folder.name, statement=folder.name, bento=f"assay-{name}:{folder.name}", reason="better")
    return folder.name


def bring_in(root: Path, name: str, seed: int) -> None:
    table = root.parent / f"{name}-{seed}.csv"
    values = np.random.default_rng(seed).normal(size=(40, 3))
    pd.DataFrame(values, columns=["a", "b", "c"]).to_csv(table, index=False)
    columns = dict.fromkeys(("label", "id_column", "group", "time", "category"))
    ingest(Project(root), read_table(table, name=name, **columns))


def commit(root: Path, message: str) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", message)


def share(root: Path, message: str) -> None:
    """What somebody does at the end of a day."""
    commit(root, message)
    dvc(root, "push", "-q")
    git(root, "push", "--quiet", "origin", "HEAD")


@pytest.fixture
def people(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Three clones of an empty project with a DVC remote."""
    first, origin = tmp_path / "first", tmp_path / "origin"
    create(first)
    dvc(first, "remote", "add", "-q", "-d", "store", str(tmp_path / "store"))
    commit(first, "new project")
    git(tmp_path, "clone", "--quiet", "--bare", str(first), str(origin))
    git(first, "remote", "add", "origin", str(origin))
    clones = (tmp_path / "second", tmp_path / "third")
    for clone in clones:
        git(tmp_path, "clone", "--quiet", str(origin), str(clone))
    return first, *clones


def pull(root: Path) -> str:
    return git(root, "pull", "--no-rebase", "--no-edit", "--quiet", "origin", "HEAD")


def test_two_datasets_and_promotions_of_two_people_meet_in_the_clone_of_a_third(
    people: tuple[Path, Path, Path],
) -> None:
    first, second, third = people
    bring_in(first, "pumps", seed=0)
    pumps = deploy(first, "pumps", eps=0.05)
    share(first, "pumps")
    bring_in(second, "valves", seed=1)
    valves = deploy(second, "valves", eps=0.05)
    pull_and_restore(second)
    assert {path.name for path in (second / "data").iterdir()} == {"pumps", "valves"}
    share(second, "valves")

    pull_and_restore(third)
    for root in (second, third):
        assert hash_tree(root / "data/pumps") == hash_tree(first / "data/pumps")
        pointers = [path.relative_to(root).as_posix() for path in root.glob("scorers/*/*.dvc")]
        assert len(pointers) == 2
        assert json.loads(dvc(root, "status", "--json", "data.dvc", *pointers)) == {}
    champions = {"pumps": pumps, "valves": valves}
    assert {name: find_scorer(name, third).name for name in champions} == champions
    assert load_scorer(find_scorer("pumps", third)).version == pumps

    better = deploy(third, "pumps", eps=0.1)
    share(third, "a better one")
    pull_and_restore(first)
    assert find_scorer("pumps", first) == first / "scorers/pumps" / better
    assert {row["tag"]: row["where"] for row in list_scorers(first)} == dict.fromkeys(
        (f"pumps:{pumps}", f"pumps:{better}", f"valves:{valves}"), "here"
    )
    git(first, "checkout", "--quiet", "HEAD~1")
    bring_back(first)
    assert find_scorer("pumps", first).name == pumps


def pull_and_restore(root: Path) -> None:
    if git(root, "status", "--porcelain"):
        commit(root, "mine")
    restore_here(root)
    pull(root)
    restore_here(root)


def restore_here(root: Path) -> None:
    restore(Project(root))
    bring_back(root)


def test_the_champion_outlives_a_challenger_that_lost(people: tuple[Path, Path, Path]) -> None:
    """Grow the data, run, commit, push, clone: the record names a scorer that is there."""
    first, second, _ = people
    bring_in(first, "pumps", seed=0)
    champion = deploy(first, "pumps", eps=0.05)
    commit(first, "run")
    bring_in(first, "pumps", seed=2)
    challenger = packaged(first, "pumps", eps=0.2)
    share(first, "the challenger lost")
    git(second, "pull", "--quiet", "origin", "HEAD")
    with pytest.raises(
        ScorerError, match=rf"fetch it from the remote store \(.*`dvc pull scorers/pumps/{champion}.dvc`"
    ):
        find_scorer("pumps", second)
    (row,) = list_scorers(second)
    assert (row["tag"], row["where"]) == (f"pumps:{champion}", "tracked")
    assert "its folder is not here" in row["broken"]
    locate(second, [row])
    assert row["where"] == "in the remote"
    restore_here(second)
    assert find_scorer("pumps", second) == second / "scorers/pumps" / champion
    assert is_tracked(second / "scorers/pumps" / champion)
    assert not (second / "scorers/pumps" / challenger.name).exists()


def test_a_champion_that_was_never_pushed_is_lost_in_a_clone_and_said_to_be(people: tuple[Path, Path, Path]) -> None:
    first, second, _ = people
    version = deploy(first, "pumps", eps=0.05)
    commit(first, "run")
    git(first, "push", "--quiet", "origin", "HEAD")
    git(second, "pull", "--quiet", "origin", "HEAD")
    rows = list_scorers(second)
    locate(second, rows)
    assert [(row["tag"], row["champion"], row["where"]) for row in rows] == [(f"pumps:{version}", True, "lost")]
    told = Checkout(second).assay("restore", code=1).stderr
    assert len(told.splitlines()) == 1
    assert f"scorers/pumps/{version}.dvc" in told
    for options, code in (((), 6), (("--strict",), 1)):  # nothing differs, and nothing could be checked
        refusal = Checkout(second).assay("audit", "verify", "pumps", *options, code=code).stderr
        assert "its folder is not here" in refusal


def test_data_that_the_remote_does_not_give_are_said_to_be_missing_there(people: tuple[Path, Path, Path]) -> None:
    first, second, _ = people
    bring_in(first, "pumps", seed=0)
    commit(first, "never pushed to the store")
    git(first, "push", "--quiet", "origin", "HEAD")
    git(second, "pull", "--quiet", "origin", "HEAD")
    with pytest.raises(DataError, match=r"the DVC remote did not give them, .*: `dvc pull data\.dvc`"):
        restore(Project(second))
    dvc(second, "remote", "remove", "store")
    with pytest.raises(DataError, match=r"`dvc remote add -d NAME ADDRESS`\), then `dvc pull data\.dvc`"):
        restore(Project(second))


def test_what_dvc_s_cache_holds_comes_back_without_a_remote(people: tuple[Path, Path, Path]) -> None:
    first, _, _ = people
    dvc(first, "remote", "remove", "store")
    version = deploy(first, "pumps", eps=0.05)
    shutil.rmtree(first / "scorers/pumps" / version)
    shutil.rmtree(first / "work/package/pumps")
    (row,) = list_scorers(first)
    assert row["where"] == "in DVC's cache"
    bring_back(first)
    assert list_scorers(first)[0]["where"] == "here"


def test_different_rows_of_the_same_dataset_are_a_conflict(people: tuple[Path, Path, Path]) -> None:
    first, second, _ = people
    bring_in(first, "pumps", seed=0)
    share(first, "pumps")
    bring_in(second, "pumps", seed=1)
    commit(second, "other pumps")
    before = (second / "data.dvc").read_bytes()
    told = git(second, "pull", "--no-rebase", "--no-edit", "origin", "HEAD", code=1)
    assert "assay: data.dvc was not merged: unable to auto-merge the following paths: pumps/" in told
    assert (second / "data.dvc").read_bytes() == before


def test_data_that_no_record_knows_are_not_replaced(people: tuple[Path, Path, Path]) -> None:
    """Unlike those of another commit, which are."""
    first, second, _ = people
    bring_in(first, "pumps", seed=0)
    commit(first, "pumps")
    old = hash_tree(first / "data/pumps")
    bring_in(first, "pumps", seed=3)
    share(first, "more pumps")
    git(first, "checkout", "--quiet", "HEAD~1")
    restore(Project(first))
    assert hash_tree(first / "data/pumps") == old
    rows = first / "data/pumps/rows.csv"
    changed = rows.read_bytes().replace(b",-1,", b",0,", 1)
    rows.unlink()
    rows.write_bytes(changed)
    git(first, "checkout", "--quiet", "-")
    with pytest.raises(TamperedError, match=r"data/pumps/rows\.csv differs"):
        restore(Project(first))
    assert rows.read_bytes() == changed

    git(second, "pull", "--quiet", "origin", "HEAD")
    (second.parent / "store").rename(second.parent / "gone")
    with pytest.raises(DataError, match="the DVC remote did not give them, `dvc push`"):
        restore(Project(second))


def packaged_again(root: Path, note: str) -> tuple[Path, str]:
    """Put a scorer of schema 3, as if made anew, where a run packages it; return its folder and its statement."""
    folder = root / "work/package/plant" / SEALED.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SEALED, folder)
    before = [folder / "statements" / f"{statement}.json" for statement in statement_ids(folder)]
    made = restate(folder, content=lambda content: content.update(note=note))
    for path in before:
        path.unlink()
    return folder, made


def test_a_kept_scorer_is_only_given_statements(people: tuple[Path, Path, Path]) -> None:
    first, _, _ = people
    folder, one = packaged_again(first, "one")
    kept = keep_scorer(first, folder)
    before = hash_tree(kept)
    folder, two = packaged_again(first, "two")
    assert keep_scorer(first, folder) == kept
    sealed = folder / "statements" / f"{two}.json"
    assert hash_tree(kept) == {**before, f"statements/{two}.json": hash_file(sealed)}
    assert statement_ids(kept) == sorted([one, two])
    assert is_tracked(kept)
    sealed.write_bytes(sealed.read_bytes() + b" ")
    with pytest.raises(TamperedError, match="was changed: its hash begins with"):
        keep_scorer(first, folder)
    packaged_again(first, "two")
    (kept / "detector.safetensors").unlink()
    with pytest.raises(TamperedError, match=r"detector\.safetensors is missing"):
        keep_scorer(first, folder)


def test_statements_of_two_people_about_the_same_scorer_are_merged(people: tuple[Path, Path, Path]) -> None:
    first, second, _ = people
    made = []
    for root, note in ((first, "mine"), (second, "hers")):
        folder, statement = packaged_again(root, note)
        kept = keep_scorer(root, folder)
        made.append(statement)
    share(first, "mine")
    restore(Project(second))
    commit(second, "hers")
    pull(second)
    dvc(second, "pull", "-q", f"{kept.relative_to(second)}.dvc")
    assert statement_ids(kept) == sorted(made)


def test_a_half_made_copy_is_no_scorer_and_goes_with_the_next_one(people: tuple[Path, Path, Path]) -> None:
    first, _, _ = people
    folder = packaged(first, "pumps", eps=0.05)
    leftover = first / f"scorers/pumps/.{folder.name}.4194304-abcdefgh"
    write_bytes(leftover / "scorer.json", b"{")
    assert git(first, "status", "--porcelain", "scorers") == ""
    with Project(first).lock():
        keep_scorer(first, folder)
    assert [path.name for path in sorted((first / "scorers/pumps").iterdir())] == [folder.name, f"{folder.name}.dvc"]


def test_scorers_that_nothing_names_are_removed_on_record(people: tuple[Path, Path, Path]) -> None:
    first, _, _ = people
    versions = [deploy(first, "pumps", 0.01)]
    commit(first, "named on another branch alone")
    git(first, "branch", "other")
    versions += [deploy(first, "pumps", eps) for eps in (0.02, 0.03, 0.04)]
    commit(first, "later")
    changed = packaged(first, "valves", 0.1).name
    keep_scorer(first, first / "work/package/valves" / changed)
    (first / "scorers/valves" / changed / "detector.safetensors").unlink()
    folders = sorted((first / "scorers").glob("*/*"))

    told = Checkout(first).assay("gc", "--dry-run").stdout
    assert sorted((first / "scorers").glob("*/*")) == folders
    assert told.splitlines()[:2] == sorted(told.splitlines()[:2])
    (line,) = (line for line in told.splitlines() if "would be removed" in line)
    assert line.split()[0] == f"pumps:{versions[1]}"

    kept = {scorer.tag: scorer.reason for scorer in collect_garbage(Project(first), dry_run=False)}
    assert [tag for tag, reason in kept.items() if not reason] == [f"pumps:{versions[1]}"]
    assert "is not what" in kept[f"valves:{changed}"]
    gone = {first / "scorers/pumps" / name for name in (versions[1], f"{versions[1]}.dvc")}
    assert set(folders) - set((first / "scorers").glob("*/*")) == gone
    event = Project(first).events.last("scorer-removed")
    assert event is not None
    assert (event["name"], event["version"], event["md5"][-4:]) == ("pumps", versions[1], ".dir")
    assert "nothing to remove" in Checkout(first).assay("gc").stdout


def compared(root: Path, challenger: str, champion: str) -> Comparison:
    """Record a comparison, as a run does, and return it."""
    numbers = {"difference": 0.1, "low": -0.1, "high": 0.3, "p_value": 0.2, "level": 0.09}
    found = Comparison(
        f"pumps:{challenger}",
        f"pumps:{champion}",
        "superior",
        None,
        "labels",
        20,
        100,
        ("01",),
        **numbers,
        promoted=False,
    )
    add_comparison(root, "pumps", found, Project(root).events)
    return read_comparisons(root, "pumps", ())[-1]


def test_the_first_champion_of_a_comparison_is_kept(people: tuple[Path, Path, Path]) -> None:
    first, _, _ = people
    versions = [deploy(first, "pumps", eps) for eps in (0.01, 0.02, 0.03, 0.04)]
    compared(first, versions[1], versions[0])
    compared(first, versions[2], versions[1])
    kept = {scorer.version: scorer.reason for scorer in collect_garbage(Project(first), dry_run=True)}
    assert "noninferior" in kept[versions[0]]
    assert kept[versions[1]] == ""


def test_comparisons_of_two_people_are_united(people: tuple[Path, Path, Path]) -> None:
    """What both spent on the same gate rows counts for both."""
    first, second, _ = people
    both = [compared(root, challenger * 12, "a" * 12) for root, challenger in ((first, "b"), (second, "c"))]
    commit(second, "one")
    commit(first, "another")
    git(first, "push", "--quiet", "origin", "HEAD")
    git(second, "pull", "--quiet", "--no-rebase", "--no-edit", "origin", "HEAD")
    found = read_comparisons(second, "pumps", ())
    assert {each.challenger for each in found} == {each.challenger for each in both}
    assert read_comparisons(second, "pumps", Project(second).events) == found


def test_a_record_that_cannot_be_read_stops_the_removal_for_its_dataset_alone(people: tuple[Path, Path, Path]) -> None:
    first, _, _ = people
    for name in ("pumps", "valves"):
        for eps in (0.01, 0.02, 0.03):
            deploy(first, name, eps)
    folders = sorted((first / "scorers/pumps").iterdir())
    write_bytes(first / "deployments/pumps.json", b"{")
    kept = collect_garbage(Project(first), dry_run=False)
    assert {scorer.name for scorer in kept if not scorer.reason} == {"valves"}
    assert all("is not a deployment record" in scorer.reason for scorer in kept if scorer.name == "pumps")
    assert sorted((first / "scorers/pumps").iterdir()) == folders
    assert len(list((first / "scorers/valves").glob("*.dvc"))) == 2
    rows = {row["name"]: row["broken"] for row in list_scorers(first)}
    assert "is not a deployment record" in rows["pumps"]
    assert rows["valves"] is None
    assert bring_back(first, ["valves"])
    assert len(bring_back(first)) == 2
