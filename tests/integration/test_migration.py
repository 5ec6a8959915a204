"""`assay migrate`: a project of before becomes one of today, and loses nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tests.conftest import Checkout, make_checkout

from assay.hashing import hash_tree
from assay.parts import read_json, write_json
from assay.project.creation import create
from assay.project.deployed import is_tracked
from assay.project.formats import is_current
from assay.project.layout import Project
from assay.project.migration import _service, migrate
from assay.project.scorers import find_scorer, list_scorers
from assay.scorer.loading import load_scorer

FROZEN = Path(__file__).parents[1] / "frozen"
CHAMPION, BEFORE = "c4b902f85406", "cc937a8701b9"
OWN = ("dvc.yaml", "flows/retrain.py", "bentofile.yaml", "constraints.txt", ".gitignore", ".gitattributes")


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENTOML_HOME", raising=False)


@pytest.fixture(scope="module")
def old_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frozen project after a `git pull` of today's code; never changed."""
    root = tmp_path_factory.mktemp("old") / "project"
    make_checkout(root)
    code = {path: (root / path).read_bytes() for path in OWN}
    shutil.unpack_archive(FROZEN / "project-2.tar.xz", root)
    for path, content in code.items():
        (root / path).write_bytes(content)
    return root


@pytest.fixture
def old(old_once: Path, tmp_path: Path) -> Checkout:
    return Checkout(Path(shutil.copytree(old_once, tmp_path / "project", symlinks=True)))


def test_every_other_command_says_to_migrate(old: Checkout) -> None:
    before = hash_tree(old.root)
    for command in (("scorers",), ("run",), ("stage", "package"), ("score", "machines.csv", "--out", "x.csv")):
        (line,) = old.assay(*command, code=2).stderr.splitlines()
        assert line.endswith("is a project of an earlier Assay; bring it up to date with `assay migrate`")
    assert hash_tree(old.root) == before


def test_its_champion_is_kept_verifies_and_answers_as_before(old: Checkout) -> None:
    scorer = hash_tree(old.root / "work/scorers/machines" / CHAMPION)
    deployment = (old.root / "deployments/machines.json").read_bytes()
    told = old.assay("migrate").stdout
    for sentence in (
        f"machines:{CHAMPION} is kept in scorers/machines/{CHAMPION} now, tracked by {CHAMPION}.dvc beside it.",
        f"machines:{BEFORE} is kept in scorers/machines/{BEFORE} now, tracked by {BEFORE}.dvc beside it.",
        "work/scorers/machines was moved to work/package/machines.",
    ):
        assert sentence in told.splitlines()
    lock = old.root / "dvc.lock"
    assert not lock.exists() or "work/scorers" not in lock.read_text()
    assert hash_tree(old.root / "scorers/machines" / CHAMPION) == scorer
    assert all(is_tracked(old.root / "scorers/machines" / version) for version in (CHAMPION, BEFORE))
    assert (old.root / "deployments/machines.json").read_bytes() == deployment
    old.assay("score", "machines.csv", "--out", "again.csv")
    scored, again = (pd.read_csv(old.root / name) for name in ("scored.csv", "again.csv"))
    pd.testing.assert_frame_equal(again, scored, rtol=1e-5)
    states = {line[11:].partition(":")[0]: line.split()[0] for line in verified(old).splitlines()}
    assert states["scorer folder"] == states["kept copy"] == states["deployment"] == states["stage package"] == "ok"


def verified(project: Checkout) -> str:
    """What `assay audit verify` says; the code of the frozen project is nowhere, which it says as well."""
    return project.call("assay", "audit", "verify", f"machines:{CHAMPION}").stdout


def test_a_second_call_finds_nothing_to_do(old: Checkout) -> None:
    old.assay("migrate")
    before = hash_tree(old.root)
    assert old.assay("migrate").stdout == "nothing to do: the project is up to date\n"
    assert {**hash_tree(old.root), ".assay/lock": ""} == {**before, ".assay/lock": ""}
    assert Project(old.root).events.last("migrated") is not None


def test_a_migration_that_was_killed_goes_on(old: Checkout) -> None:
    """After the copies, before the old folder is moved."""
    spare = old.root.with_name("spare")
    shutil.copytree(old.root / "work/scorers", spare)
    migrate(Project(old.root))
    shutil.move(spare, old.root / "work/scorers")
    shutil.rmtree(old.root / "work/package")
    (old.root / "scorers/machines" / f"{BEFORE}.dvc").unlink()
    assert not is_current(old.root)
    changes = migrate(Project(old.root))
    assert any(BEFORE in sentence for sentence in changes)
    assert not any("copied" in sentence for sentence in changes)
    assert is_current(old.root)
    assert is_tracked(old.root / "scorers/machines" / BEFORE)
    assert (old.root / "work/package/machines" / CHAMPION / "scorer.json").is_file()


def test_what_cannot_be_taken_over_is_named_and_stays(old: Checkout) -> None:
    damaged = old.root / "work/scorers/machines" / CHAMPION / "detector.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    shutil.rmtree(old.root / ".dvc/cache")
    changes = migrate(Project(old.root))
    assert any(f"machines:{CHAMPION} was not copied" in text and "was changed" in text for text in changes)
    assert any(f"machines:{BEFORE}, the champion before this one, is neither here" in text for text in changes)
    assert (old.root / "work/package/machines" / CHAMPION / "detector.safetensors").is_file()
    assert is_current(old.root)


def test_a_run_since_does_not_cost_the_old_output(old: Checkout) -> None:
    write_json(old.root / "work/package/machines/record.json", {})
    migrate(Project(old.root))
    assert read_json(old.root / "work/package/machines/record.json") == {}
    assert (old.root / ".assay/before-migration/machines" / CHAMPION / "scorer.json").is_file()


def test_a_project_without_a_run_gets_today_s_lines(tmp_path: Path) -> None:
    """Whatever else people wrote in these files stays."""
    root = create(tmp_path / "project")
    text = (root / "dvc.yaml").read_text()
    before = text[: text.index("metrics:")].replace("work/package/", "work/scorers/")
    before = before.replace("        - answers/${item}.csv\n", "")
    (root / "dvc.yaml").write_text(f"# mine\n{before}")
    bentofile = (root / "bentofile.yaml").read_text()
    (root / "bentofile.yaml").write_text(bentofile.replace("assay.service.app:", "assay.serving.service:") + "# mine\n")
    (root / ".gitattributes").unlink()
    (root / ".gitignore").write_text("/data/\n/own/")
    shutil.rmtree(root / ".dvc/plots")
    there = Checkout(root)
    told = there.assay("migrate").stdout
    assert "bentofile.yaml names the service: assay.service.app:ScoringService." in told
    assert (root / "bentofile.yaml").read_text() == f"{bentofile}# mine\n"
    assert yaml.safe_load((root / "dvc.yaml").read_text()) == yaml.safe_load(text)
    assert (root / "dvc.yaml").read_text().startswith("# mine\n")
    assert (root / ".gitignore").read_text() == "/data/\n/own/\n/scorers/*/?*/\n"
    lines = ["*.dvc merge=dvc", "deployments/*.jsonl merge=union", "labels/*.feedback.csv merge=union", "seals/* -text"]
    assert (root / ".gitattributes").read_text().splitlines() == lines
    assert json.loads(there.assay("scorers", "--json").stdout) == []
    assert "nothing to do" in there.assay("migrate").stdout


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        (
            "  packages:  # mine\n    # pinned\n    - numpy==2.4.6  # as here\n    - orjsonl==1",
            "  packages:  # mine\n    # pinned\n    - orjson==3.13.0\n    - numpy==2.4.6  # as here\n    - orjsonl==1",
        ),
        ("  packages:\n  - numpy", "  packages:\n  - orjson==3.13.0\n  - numpy"),
        ("  packages: [numpy, 'x[y]']  # mine", "  packages: [orjson==3.13.0, numpy, 'x[y]']  # mine"),
        ("  packages:\n  - 'Orjson>=3'\n  - numpy", None),
        ("  requirements_txt: ./requirements.txt", None),
        ("  packages: numpy", None),
    ],
)
def test_a_bentofile_of_one_s_own_lists_what_the_service_needs(
    tmp_path: Path, packages: str, expected: str | None
) -> None:
    """All but orjson are listed further below, so that one line is all that is missing."""
    path = tmp_path / "bentofile.yaml"
    others = "".join(
        f"{indent}- {name}==1\n"
        for indent in ["    " if "    - " in packages else "  "]
        for name in ("pydantic", "safetensors", "scikit_learn", "scipy", "torch")
    )
    if "[" in packages:
        packages, others = packages.replace("numpy", "numpy, pydantic, safetensors, scikit-learn, scipy, torch"), ""
        expected = str(expected).replace("numpy", "numpy, pydantic, safetensors, scikit-learn, scipy, torch")
    elif "- " not in packages:
        others = ""
    head, tail = "# mine\nservice: assay.service.app:ScoringService\npython:\n", "docker:\n  python_version: '3.11'\n"
    path.write_text(f"{head}{packages}\n{others}{tail}")
    told = list(_service(tmp_path))
    assert path.read_text() == f"{head}{expected or packages}\n{others}{tail}"
    assert told == (
        [] if expected is None else ["bentofile.yaml lists the package orjson==3.13.0, which the service needs."]
    )
    assert list(_service(tmp_path)) == []
    path.write_text(path.read_text().replace("service: assay.", "service: mine.").replace("orjson==3.13.0", "x"))
    assert list(_service(tmp_path)) == []


def test_a_champion_that_bentoml_alone_has_is_kept(old: Checkout) -> None:
    published = old.root / ".bentoml/models/machines" / CHAMPION
    shutil.copytree(old.root / "work/scorers/machines" / CHAMPION, published)
    shutil.rmtree(old.root / "work/scorers")
    shutil.rmtree(old.root / ".dvc/cache")
    migrate(Project(old.root))
    assert find_scorer("machines", old.root) == old.root / "scorers/machines" / CHAMPION
    assert load_scorer(old.root / "scorers/machines" / CHAMPION).version == CHAMPION
    assert {row["where"] for row in list_scorers(old.root) if row["champion"]} == {"here"}
