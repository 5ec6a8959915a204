"""The command `assay` as people and scripts meet it: help, JSON, one-line errors and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.conftest import QUICK, Checkout

import assay
from assay.cli.main import main
from assay.environment import SWITCHES
from assay.scorer.statement import read_statement

NO_SERVER = "http://127.0.0.1:9/api"
COMMANDS = (
    *("audit", "data", "detectors", "gc", "ingest", "init", "label", "migrate", "monitor", "promote", "restore"),
    *("review", "reweight", "run", "schedule", "score", "scorers", "serve", "stage", "suite", "sweep", "sync", "token"),
)


def call(project: Checkout, *arguments: str, code: int = 0) -> Result:
    """Run `assay` in this process, where everything heavy has to be imported only once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        for name, value in {**SWITCHES, **project.environment(PREFECT_API_URL=NO_SERVER)}.items():
            patch.setenv(name, value)
        done = CliRunner().invoke(main, arguments, prog_name="assay")
    assert done.exit_code == code, f"exit code {done.exit_code}\n{done.output}\n{done.exception!r}"
    return done


def refusal(stdout: str, stderr: str) -> str:
    """The one line on stderr by which a command says what is wrong; nothing else is printed."""
    (line,) = stderr.splitlines()
    assert line.startswith("assay: ")
    assert stdout == ""
    return line


def refuse(project: Checkout, *arguments: str, code: int) -> str:
    done = call(project, *arguments, code=code)
    return refusal(done.stdout, done.stderr)


@pytest.fixture
def clone(checkout: Checkout) -> Checkout:
    """A fresh project as Git gives it to anyone: all is committed, nothing was run, and data/ is not there."""
    who = ("-c", "user.name=tests", "-c", "user.email=tests@example.org")
    for command in (("add", "--all"), ("commit", "--quiet", "--message", "all")):
        assert checkout.call("git", *who, *command).returncode == 0
    return checkout


def test_tokens_are_made_listed_and_revoked(checkout: Checkout) -> None:
    done = call(checkout, "token", "new", "admin")
    (text,) = done.stdout.splitlines()
    name = text.split("_")[1]
    assert f"token {name}, shown this once" in done.stderr
    assert text not in done.stderr
    assert call(checkout, "token", "list").stdout.startswith(f"{name}  admin ")
    assert checkout.call("git", "status", "--porcelain", ".assay").stdout == ""
    assert call(checkout, "token", "revoke", name).stdout == f"token {name} (admin) is revoked\n"
    assert call(checkout, "token", "list").stdout == ""
    assert f"there is no token '{name}'" in refuse(checkout, "token", "revoke", name, code=2)


def test_a_test_s_project_holds_nothing_that_runs_of_this_folder_change(checkout: Checkout) -> None:
    names = {path.name for path in checkout.root.iterdir() if not path.name.startswith(".")}
    folders, files = {"expectations", "flows", "src"}, {"cells.yaml", "data.dvc", "dvc.yaml", "params.yaml"}
    assert names == folders | files | {"bentofile.yaml", "constraints.txt", "pyproject.toml"}
    assert (checkout.root / "params.yaml").read_text() == QUICK


def test_help_names_every_command(checkout: Checkout) -> None:
    told = call(checkout, "--help").stdout
    shown = told.partition("Commands:\n")[2].splitlines()
    assert tuple(line.split()[0] for line in shown if line[2] != " ") == COMMANDS
    assert all(line.strip() for line in shown)
    assert call(checkout, "-h").stdout == told


@pytest.mark.parametrize("name", [*COMMANDS, "audit verify"])
def test_every_command_explains_itself(tmp_path: Path, name: str) -> None:
    """Anywhere, not only inside a project."""
    usage, _, rest = call(Checkout(tmp_path), *name.split(), "--help").stdout.partition("\n\n")
    assert usage.startswith(f"Usage: assay {name}")
    assert rest.strip()


def test_version(checkout: Checkout) -> None:
    assert call(checkout, "--version").stdout == f"assay, version {assay.__version__}\n"


def test_the_real_command_is_the_same_one(tmp_path: Path) -> None:
    done = Checkout(tmp_path).assay("stage", "split", code=2)
    assert "is not inside an Assay project" in refusal(done.stdout, done.stderr)
    assert Checkout(tmp_path).assay("--version").stdout == f"assay, version {assay.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("stage", "split"),
        ("stage", "no-such-stage"),
        ("ingest", "digits"),
        ("restore",),
        ("scorers",),
        ("serve",),
        ("promote", "digits", "--why", "x"),
        ("audit", "verify", "digits"),
        ("schedule", "--interval", "5"),
    ],
    ids=" ".join,
)
def test_outside_a_project(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    line = refuse(Checkout(tmp_path), *arguments, code=2)
    assert f"{tmp_path} is not inside an Assay project" in line
    assert list(tmp_path.iterdir()) == []


def test_anywhere_inside_a_project(checkout: Checkout) -> None:
    (checkout.root / "src" / "deep").mkdir()
    inside = Checkout(checkout.root / "src" / "deep")
    assert json.loads(call(inside, "scorers", "--json").stdout) == []
    assert list(inside.root.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("stage", "no-such-stage"), 2, "there is no stage 'no-such-stage'; there are split, contaminate, validate"),
        (("stage", "train@breast_cancer--lof"), 2, "there is no stage 'train@breast_cancer--lof'; there are split@"),
        (("stage", "split"), 1, "stage split@breast_cancer needs data/breast_cancer, which is missing"),
        (
            ("stage", "package@breast_cancer"),
            1,
            "stage package@breast_cancer needs data/breast_cancer, which is",
        ),
        (("ingest", "nowhere.csv", "--name", "x"), 2, "'nowhere.csv' is neither a file nor a known dataset"),
        (("ingest", "params.yaml", "--name", "x"), 2, "params.yaml is neither .csv, .tsv"),
        (("ingest", "params.yaml"), 2, "give the dataset of params.yaml a name"),
        (("ingest", "digits", "--label", "y"), 2, "--label is for your own files"),
        (("audit", "verify", "clinic"), 1, "there is no champion of that name"),
        (("audit", "verify", "clinic:0123"), 1, "there is no scorer 'clinic:0123'"),
        (("audit", "verify", "clinic:*"), 1, "neither a scorer folder nor name:version"),
        (("promote", "clinic:0123", "--why", "x"), 1, "there is no scorer 'clinic:0123'"),
        (("schedule", "--interval", "5"), 1, f"no Prefect server answers at PREFECT_API_URL={NO_SERVER}"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_refused_is_one_line_and_a_code(
    clone: Checkout, arguments: tuple[str, ...], code: int, words: str
) -> None:
    assert words in refuse(clone, *arguments, code=code)
    assert not (clone.root / "work").exists()
    assert not (clone.root / "data").exists()


def test_wrong_settings_are_one_line_and_a_code(clone: Checkout) -> None:
    clone.params(QUICK.replace("eps: 0.05", "eps: 5"))
    for arguments in (("run",), ("stage", "train"), ("serve",)):
        assert "params.yaml: eps is 5" in refuse(clone, *arguments, code=2)


def test_changed_outputs_are_one_line_and_a_code(finished: Checkout) -> None:
    path = finished.root / "work/breast_cancer/select/selection.json"
    path.unlink()
    assert "selection.json is missing" in refuse(finished, "stage", "select", code=5)


@pytest.mark.parametrize(
    "arguments",
    [("no-such-command",), ("stage",), ("run", "--no-such-option"), ("promote", "a"), ("audit", "verify"), ()],
    ids=lambda arguments: " ".join(arguments) or "nothing",
)
def test_a_wrong_command_line_shows_the_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = call(Checkout(tmp_path), *arguments, code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("Usage: assay")


def test_a_fresh_stage_says_so(finished: Checkout) -> None:
    done = call(finished, "stage", "select")
    assert done.stderr.split() == ["select", "fresh"]
    assert done.stdout == ""
    done = call(finished, "stage", "calibrate@breast_cancer--mcd")
    assert done.stderr.split() == ["calibrate", "mcd", "fresh"]


def test_a_verb_means_all_its_stages(finished: Checkout) -> None:
    done = call(finished, "stage", "calibrate")
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["knn", "isolation_forest", "mcd"]


def test_no_scorers_yet(checkout: Checkout) -> None:
    done = call(checkout, "scorers")
    assert (done.stdout, done.stderr) == ("", "none yet; `assay run` makes one\n")
    assert call(checkout, "scorers", "--json").stdout == "[]\n"


def test_scorers_in_json(finished: Checkout) -> None:
    def listed() -> dict[str, Any]:
        (row,) = json.loads(call(finished, "scorers", "--json").stdout)
        assert isinstance(row, dict)
        return row

    row = listed()
    statement = read_statement(Path(row["folder"]))
    shared = {
        "statement": statement.id,
        "bento": f"assay-{statement.tag}",
        "quarantined": {},
        "broken": None,
        **{name: statement.candidate[name] for name in ("detector", "adapter")},
        "data_version": statement.data_version,
        "lineage_root": statement.root,
    }
    folder = str(finished.root / "scorers/breast_cancer" / row["version"])
    assert row == {
        "name": "breast_cancer",
        "version": row["version"],
        "tag": f"breast_cancer:{row['version']}",
        "champion": True,
        "where": "here",
        "folder": folder,
        "eps": 0.05,
        **shared,
        "statements": [{**shared, "tag": statement.tag, "folder": folder, "deployed": True}],
    }
    (Path(row["folder"]) / "detector.safetensors").unlink()
    assert "detector.safetensors is missing" in listed()["broken"]
    assert "detector.safetensors is missing" in call(finished, "scorers").stdout


def test_detectors_in_json(tmp_path: Path) -> None:
    """What params.yaml may name, with defaults; no project is needed."""
    anywhere = Checkout(tmp_path)
    rows = json.loads(call(anywhere, "detectors", "--json").stdout)
    assert all(row.keys() >= {"name", "summary", "params"} for row in rows)
    params = {row["name"]: row["params"] for row in rows}
    assert {"autoencoder", "knn", "isolation_forest", "mcd"} <= params.keys()
    assert params["knn"].keys() == {"n_neighbors"}
    assert params["isolation_forest"]["n_estimators"] > 0
    told = call(anywhere, "detectors").stdout
    for row in rows:
        assert row["name"] in told
        assert row["summary"] in told
        assert all(f"{name}=" in told for name in row["params"])


def test_restore_brings_the_bundled_data_back(checkout: Checkout) -> None:
    tracked = (checkout.root / "data.dvc").read_bytes()
    done = checkout.assay("restore")
    assert (done.stdout, done.stderr) == ("data/ is what data.dvc names: breast_cancer, digits\n", "")
    assert sorted(p.name for p in (checkout.root / "data").iterdir()) == ["breast_cancer", "digits"]
    assert json.loads(checkout.call("dvc", "status", "--json", "data.dvc").stdout) == {}
    assert (checkout.root / "data.dvc").read_bytes() == tracked
    assert not list(checkout.root.glob(".data.*"))
    files = {p: p.stat().st_mtime_ns for p in (checkout.root / "data").rglob("*")}
    checkout.assay("restore")
    assert {p: p.stat().st_mtime_ns for p in (checkout.root / "data").rglob("*")} == files
    (checkout.root / "data").rename(checkout.root / "moved away")
    checkout.assay("restore")
    assert json.loads(checkout.call("dvc", "status", "--json", "data.dvc").stdout) == {}


def test_data_that_cannot_be_had_are_not_replaced_by_others(checkout: Checkout) -> None:
    tracked = checkout.root / "data.dvc"
    tracked.write_text(tracked.read_text().replace("md5: ", "md5: 0")[:-1] + "\n")
    before = tracked.read_bytes()
    line = refuse(checkout, "restore", code=2)
    assert "data.dvc names other data than the bundled sets" in line
    assert tracked.read_bytes() == before
    assert not (checkout.root / "data").exists()
    assert not list(checkout.root.glob(".data.*"))
