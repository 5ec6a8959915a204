"""A packaged scorer as a Bento: published, served over HTTP, asked the right and the wrong things."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import yaml
from sklearn.datasets import load_breast_cancer
from tests.waiting import HANG_SECONDS, at_work, wait_until_none_works

import assay
from assay.calibration.adapters.outputs import observe
from assay.calibration.adapters.registry import make_adapter
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.hardness import Strata
from assay.data.modalities.tabular import TABULAR
from assay.detectors.registry import make_detector
from assay.errors import ConfigError, ScorerError, TamperedError, ToolError
from assay.eventlog import EventLog
from assay.hashing import hash_file
from assay.project.deployment import keep, promote, read_deployment
from assay.project.scorers import find_packaged, list_scorers
from assay.release.bento import Published, publish, serve
from assay.scorer.folder import write_scorer
from assay.scorer.score_function import ScoreFunction
from assay.scorer.scorer import Scorer
from assay.scorer.statement import read_statement, statement_ids, write_statement
from assay.service.formats import ARROW
from assay.service.spool import read_spool, spool_path
from assay.service.tokens import TOKENS, new_token, tokens_path

CHECKOUT = Path(__file__).parents[2]
NAME = "breast-cancer_2"
CHAIN_HEAD = "0" * 64
DATA_VERSION = "cd" * 16 + ".dir"
DATA = load_breast_cancer()
COLUMNS = [str(name) for name in DATA.feature_names]
ROWS = DATA.data.astype(np.float32)


def fit_scorer(folder: Path, name: str) -> Path:
    """Fit a scorer on benign tumours: 160 to train, 70 to adapt, 70 to calibrate."""
    train, adapt, calibration = np.split(ROWS[DATA.target == 1][:300], [160, 230])
    scaler = TABULAR.scaler().fit(train)
    scaled = scaler.transform(train)
    detector = make_detector("isolation_forest", {}, seed=0).fit(scaled)
    null_model = TABULAR.null_model().fit(scaled)
    scaled = scaler.transform(adapt)
    hardness = null_model.hardness(scaled)
    adapter = make_adapter("cadet", {}).fit(observe(detector, null_model, scaled))
    score = ScoreFunction(scaler, detector, null_model, adapter)
    parts: dict[str, Any] = {
        "scaler": scaler,
        "detector": detector,
        "null_model": null_model,
        "strata": Strata.fit(hardness),
        "adapter": adapter,
        "calibrator": ConformalCalibrator().fit(score(calibration)),
    }
    head = {
        "columns": COLUMNS,
        "eps": 0.05,
        "ties": "counted",
    }
    made = folder / write_scorer(folder, head, {key: part.to_part() for key, part in parts.items()})
    add_statement(made, name)
    return made


def add_statement(folder: Path, name: str, **more: Any) -> str:
    candidate = {"detector": "isolation_forest", "adapter": "cadet", "level": "level-0"}
    content = {"name": name, "candidate": candidate, **more}
    records = {"train": b"{}\n"}
    return write_statement(folder, content, data_version=DATA_VERSION, records=records, rows={})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("project")
    shutil.copy(CHECKOUT / "bentofile.yaml", root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        yield root


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return fit_scorer(root / "work" / "package" / NAME, NAME)


PUBLISH = """
import sys
from pathlib import Path
from assay.project.scorers import find_packaged
from assay.release.bento import publish
publish(find_packaged(sys.argv[1]), root=Path(sys.argv[2]), chain_head="0" * 64)
"""


@pytest.fixture(scope="module")
def left_by_a_crash(root: Path, folder: Path) -> list[Path]:
    """What is in the stores after a first `publish` was killed in the middle of its work."""
    home = root / ".bentoml"
    with subprocess.Popen([sys.executable, "-c", PUBLISH, str(folder), str(root)]) as process:
        while not list(home.glob(".publish.*/models")):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    return [*home.glob("models/*/*"), *home.glob("bentos/*/*")]


@pytest.fixture(scope="module")
def published(root: Path, folder: Path, left_by_a_crash: list[Path]) -> Published:
    """The scorer, published after a crash and over an incomplete model of its name."""
    half = root / ".bentoml" / "models" / read_statement(folder).tag.replace(":", "/")
    half.mkdir(parents=True)
    (half / "scorer.json").write_text("{")
    return publish(find_packaged(folder), root=root, chain_head=CHAIN_HEAD)


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Scorer:
    return assay.load(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: list[str], port: int, log: Path, cwd: Path, environment: dict[str, str]
) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """Run a server until the block ends, whatever happens in it; nothing of it outlives the block."""
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_SECONDS) as client:
                wait_ready(client, process, log)
                yield client, process
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and, should it not take its workers with it, those too: they are sessions of their own."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
    for member in family:
        if member.is_running():
            member.kill()


def wait_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"never ready: {log.read_text()}")


SERVE = """
import sys
from pathlib import Path
from assay.release.bento import serve
sys.exit(serve(sys.argv[1], root=Path(sys.argv[2]), host="localhost", port=int(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def log(root: Path) -> Path:
    return root / "server.log"


@pytest.fixture(scope="module")
def client(root: Path, published: Published, log: Path) -> Iterator[httpx.Client]:
    """The scorer behind `serve`, as a user runs it; a signal to it must end all of it, with exit code 0."""
    port = free_port()
    command = [sys.executable, "-c", SERVE, published.model_tag, str(root), str(port)]
    with running(command, port, log, root, dict(os.environ)) as (client, process):
        yield client
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_SECONDS) == 0
        assert not [member for member in family if member.is_running()]


def ask(client: httpx.Client, rows: Any, **content: Any) -> dict[str, Any]:
    response = client.post("/score", json={"columns": COLUMNS, "rows": rows, **content})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_answers_equal_the_loaded_scorer(client: httpx.Client, scorer: Scorer) -> None:
    backwards = {"columns": COLUMNS[::-1], "rows": ROWS[:, ::-1].tolist()}
    response = client.post("/score", json=backwards)
    answer = response.json()
    assert [row["score"] for row in answer["results"]] == scorer.decision_function(ROWS).tolist()
    assert [row["p_value"] for row in answer["results"]] == scorer.p_values(ROWS).tolist()
    flagged = [row["flagged"] for row in answer["results"]]
    assert flagged == scorer.predict(ROWS).tolist()
    assert 0 < sum(flagged) < len(ROWS)
    assert {key: answer[key] for key in answer if key != "results"} == {
        "eps": 0.05,
        "fpr_bands": {"all": list(scorer.fpr_bands(0.05)["all"])},
        "model_version": scorer.version,
        "statement": scorer.statement.id,
        "data_version": DATA_VERSION,
        "lineage_root": scorer.statement.root,
    }


def test_the_scores_of_answers_are_kept_for_the_monitors(client: httpx.Client, root: Path, scorer: Scorer) -> None:
    path = spool_path(root / ".assay" / "monitor", scorer.tag)
    client.get("/metrics")  # which has what waits to be kept written first
    before = len(read_spool(path)) if path.is_file() else 0
    ask(client, ROWS[:30].tolist())
    assert client.post("/score", json={"columns": COLUMNS, "rows": [[1.0]]}).status_code == 400
    ask(client, ROWS[30:40].tolist(), fdr=0.2)
    client.get("/metrics")
    np.testing.assert_array_equal(read_spool(path)[before:], scorer.decision_function(ROWS[:40]))


def test_the_server_watches_its_own_answers(client: httpx.Client, root: Path, scorer: Scorer) -> None:
    ask(client, ROWS[:20].tolist())
    client.get("/metrics")
    rows = len(read_spool(spool_path(root / ".assay" / "monitor", scorer.tag)))
    end = time.monotonic() + HANG_SECONDS
    while not (monitors := client.get("/info").json()["monitors"]) or monitors[0]["rows"] < rows:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert [monitor["name"] for monitor in monitors] == ["drift of all rows", "drift of normal rows"]
    metrics = client.get("/metrics").text
    assert f'assay_monitor_rows{{dataset="{NAME}",monitor="drift of all rows",version="{scorer.version}"}} ' in metrics
    assert f'assay_p_values_total{{bin="0.9-1",dataset="{NAME}",version="{scorer.version}"}} ' in metrics


def test_eps_of_the_request_decides(client: httpx.Client, scorer: Scorer) -> None:
    answer = ask(client, ROWS.tolist(), eps=0.3)
    assert answer["eps"] == 0.3
    assert [row["flagged"] for row in answer["results"]] == scorer.predict(ROWS, eps=0.3).tolist()


def test_false_discoveries_of_a_batch_are_controlled(client: httpx.Client, scorer: Scorer) -> None:
    rows = np.concatenate([ROWS[:100], ROWS[:10] + 1e4])
    answer = ask(client, rows.tolist(), fdr=0.2)
    assert (answer["eps"], answer["fdr"]) == (None, 0.2)
    flags = [row["flagged"] for row in answer["results"]]
    assert flags == scorer.discover(rows, fdr=0.2).tolist()
    assert flags != (scorer.p_values(rows) <= 0.05).tolist()


def test_a_batch_in_which_nothing_can_be_flagged_is_told_why(client: httpx.Client) -> None:
    answer = ask(client, [[1e30] * 30], fdr=0.01)
    assert not answer["results"][0]["flagged"]
    assert "no row of a batch of 1 can be flagged" in answer["note"]
    answer = ask(client, [[1e30] * 30, *ROWS[DATA.target == 1][:80].tolist()], fdr=0.1)
    assert not any(row["flagged"] for row in answer["results"])
    assert "only if at least 12 of them" in answer["note"]  # 81 / (71 * .1)
    assert "note" not in ask(client, [[1e30] * 30] * 80, fdr=0.1)


def test_whole_numbers_are_numbers(client: httpx.Client, scorer: Scorer) -> None:
    rows = np.arange(60).reshape(2, 30)
    answer = ask(client, rows.tolist())
    assert [row["score"] for row in answer["results"]] == scorer.decision_function(rows).tolist()


def test_large_request(client: httpx.Client, scorer: Scorer) -> None:
    rows = np.random.default_rng(0).normal(ROWS.mean(0), ROWS.std(0), (10_000, 30))
    answer = ask(client, rows.tolist())
    assert [row["score"] for row in answer["results"]] == scorer.decision_function(rows).tolist()


def test_no_rows(client: httpx.Client) -> None:
    assert ask(client, [])["results"] == []


def test_eps_too_small_to_flag_is_said(client: httpx.Client, scorer: Scorer) -> None:
    smallest = scorer.calibrator.smallest_eps
    answer = ask(client, [[1e30] * 30], eps=smallest * 0.99)
    assert not answer["results"][0]["flagged"]
    assert "no row can be flagged: it takes 71 calibration rows, there are 70" in answer["note"]
    answer = ask(client, [[1e30] * 30], eps=smallest)
    assert "note" not in answer
    answer = ask(client, [[1e30] * 30], eps=1e-310)
    assert not answer["results"][0]["flagged"]
    assert "it takes 1.00e+310 calibration rows, there are 70" in answer["note"]
    answer = ask(client, [[1e30] * 30], fdr=5e-324)
    assert not answer["results"][0]["flagged"]
    assert "no row of a batch of 1 can be flagged" in answer["note"]


def test_deployed_scorer_is_described(client: httpx.Client, scorer: Scorer) -> None:
    answer = client.post("/info").json()
    assert answer["columns"] == COLUMNS
    assert (answer["model_version"], answer["statement"]) == (scorer.version, scorer.statement.id)
    assert (answer["detector"], answer["adapter"], answer["eps"]) == ("isolation_forest", "cadet", 0.05)
    assert (answer["n_calibration"], answer["category_column"]) == (70, None)
    assert (answer["categories"], answer["n_categories"]) == (None, None)
    assert "P(p <= eps) <= eps" in answer["guarantee"]


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/metrics", "/docs.json"])
def test_endpoints_for_platforms(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def body(columns: Any = COLUMNS, rows: Any = None, **more: Any) -> bytes:
    return json.dumps({"columns": columns, "rows": [[1.0] * 30] if rows is None else rows, **more}).encode()


def rows_with(value: Any) -> Any:
    """Three good rows, but for the value of "mean area" in row 1."""
    rows: list[list[Any]] = [[1.0] * 30 for _ in range(3)]
    rows[1][3] = value
    return rows


BAD = {
    "nothing": (b"", ["not JSON"]),
    "no json": (b"columns=1", ["not JSON"]),
    "no utf-8": (b'{"columns": "\xff"}', ["not JSON"]),
    "a list": (b"[1, 2]", ["body is a list", "columns", "rows"]),
    "null": (b"null", ["body is null"]),
    "wrapped": (json.dumps({"request": json.loads(body())}).encode(), ["unknown key 'request'"]),
    "unknown key": (body(epsilon=0.1), ["unknown key 'epsilon'", "eps"]),
    "no rows key": (json.dumps({"columns": COLUMNS}).encode(), ["'rows' is missing"]),
    "no columns key": (b'{"rows": []}', ["'columns' is missing"]),
    "columns no list": (body("mean area"), ["columns must be a list of names"]),
    "columns no names": (body([1, 2]), ["columns must be a list of names"]),
    "no columns": (body([]), ["'mean radius' is missing", "30 columns"]),
    "unknown column": (body([*COLUMNS, "age"]), ["unknown column 'age'"]),
    "missing column": (body(COLUMNS[:-1]), ["'worst fractal dimension' is missing"]),
    "doubled column": (body([*COLUMNS, "mean area"]), ["'mean area' is given twice"]),
    "rows no list": (body(rows="1,2,3"), ["rows is a string"]),
    "row no list": (body(rows=[[1.0] * 30, 5]), ["row 1 is a number", "30 numbers"]),
    "flat rows": (body(rows=[1.0] * 30), ["row 0 is a number"]),
    "nested rows": (body(rows=[[[1.0]] * 30]), ["row 0", "'mean radius' is a list"]),
    "ragged": (body(rows=[[1.0] * 30, [1.0] * 29]), ["row 1 has length 29", "30"]),
    "empty row": (body(rows=[[]]), ["row 0 has length 0"]),
    "string": (body(rows=rows_with("12")), ["row 1", "'mean area' is a string"]),
    "boolean": (body(rows=rows_with(True)), ["row 1", "'mean area' is true or false"]),
    "null value": (body(rows=rows_with(None)), ["row 1", "'mean area' is null"]),
    "nan": (body(rows=rows_with(float("nan"))), ["row 1", "'mean area' is nan", "finite"]),
    "infinity": (body(rows=rows_with(float("inf"))), ["row 1", "'mean area' is inf"]),
    "beyond float64": (body(rows=rows_with(10**400)), ["row 1", "'mean area'", "finite"]),
    "very long number": (
        body(rows=rows_with(10**5)).replace(b"100000", b"9" * 5000),
        ["row 1", "'mean area'"],
    ),
    "eps 0": (body(eps=0), ["eps is 0.0", "between 0 and 1"]),
    "eps 1": (body(eps=1), ["eps is 1.0"]),
    "eps beyond float64": (body(eps=10**400), ["eps is inf"]),
    "eps negative": (body(eps=-1e-310), ["eps is -1e-310"]),
    "eps list": (body(eps=[0.1]), ["eps is a list"]),
    "eps nan": (body(eps=float("nan")), ["eps is nan"]),
    "eps string": (body(eps="0.05"), ["eps is a string"]),
    "eps boolean": (body(eps=True), ["eps is true or false"]),
    "fdr 1": (body(fdr=1), ["fdr is 1.0", "between 0 and 1"]),
    "fdr 0": (body(fdr=0), ["fdr is 0.0"]),
    "fdr nan": (body(fdr=float("nan")), ["fdr is nan"]),
    "fdr string": (body(fdr="0.1"), ["fdr is a string"]),
    "eps and fdr": (body(eps=0.1, fdr=0.1), ["eps and fdr", "one of them"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained(client: httpx.Client, log: Path, name: str) -> None:
    content, words = BAD[name]
    response = client.post("/score", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    for word in words:
        assert word in response.json()["detail"]
    assert response.json()["error"] == response.json()["detail"]
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "text/plain", "application/x-www-form-urlencoded"])
def test_content_type_does_not_matter(client: httpx.Client, log: Path, kind: str) -> None:
    assert client.post("/score", content=body(), headers={"content-type": kind}).status_code == 200
    assert client.post("/score", content=b"--x", headers={"content-type": kind}).status_code == 400
    assert "Traceback" not in log.read_text()


ELSEWHERE = """
import sys
sys.path[:] = [path for path in sys.path if path != {source!r}]

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)

sys.meta_path.insert(0, Missing())
"""


def test_bento_carries_all_that_it_needs(
    root: Path, published: Published, client: httpx.Client, scorer: Scorer, tmp_path: Path
) -> None:
    """Unpacked elsewhere with its model, as in a container: no checkout, no store, no pipeline packages.

    It answers as `assay serve` does.
    """
    home = root / ".bentoml"
    unpacked = tmp_path / "bento"
    shutil.copytree(home / "bentos" / published.bento_tag.replace(":", "/"), unpacked)
    shutil.copytree(home / "models" / NAME, unpacked / "models" / NAME)
    missing = {"pandas", "prefect", "dvc", "great_expectations", "matplotlib", "pooch", "pyarrow", "ruamel"}
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(ELSEWHERE.format(source=str(CHECKOUT / "src"), missing=missing))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(site)}
    environment |= {"BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", str(unpacked), "--port", str(port)]
    questions = [
        ("/score", {"columns": COLUMNS, "rows": ROWS[:5].tolist(), "eps": 0.1}),
        ("/score", {"columns": COLUMNS, "rows": [[1.0]]}),
        ("/info", {}),
        ("/version", {}),
    ]
    with running(command, port, tmp_path / "log", tmp_path, environment) as (bento, _):
        answers = [bento.post(path, json=content) for path, content in questions]
        assert bento.get("/docs.json").json() == client.get("/docs.json").json()
        assert "googletag" not in bento.get("/").text
        arrow = bento.post("/score", json=questions[0][1], headers={"accept": ARROW})
        assert arrow.status_code == 406
        assert "is not installed where this service runs" in arrow.json()["detail"]
    assert answers[0].json()["results"][4]["score"] == scorer.decision_function(ROWS[:5])[4]
    for (path, content), answer in zip(questions, answers, strict=True):
        served = client.post(path, json=content)
        # What watches its answers, only `assay serve` has.
        expected = served.json() | ({"monitors": None} if path == "/info" else {})
        assert (answer.status_code, answer.json()) == (served.status_code, expected)


def test_what_is_published_is_left_alone(root: Path, folder: Path, published: Published) -> None:
    (root / "bentofile.yaml").rename(root / "away")
    try:
        assert published.built
        assert publish(find_packaged(folder), root=root, chain_head="1" * 64) == replace(published, built=False)
    finally:
        (root / "away").rename(root / "bentofile.yaml")


def test_labels_bind_bento_and_model(root: Path, folder: Path, published: Published, scorer: Scorer) -> None:
    home = root / ".bentoml"
    bento = yaml.safe_load((home / "bentos" / published.bento_tag.replace(":", "/") / "bento.yaml").read_text())
    model = yaml.safe_load((home / "models" / published.model_tag.replace(":", "/") / "model.yaml").read_text())
    statement = scorer.statement
    assert published.model_tag == statement.tag == f"{scorer.tag}-{statement.id}"
    assert (published.scorer, published.statement) == (scorer.tag, statement.id)
    assert bento["labels"]["chain_head"] == CHAIN_HEAD
    assert bento["labels"]["scorer"] == scorer.tag
    assert bento["services"][0]["models"][0]["tag"] == statement.tag
    assert model["labels"]["statement"] == bento["labels"]["statement"] == statement.id
    assert model["labels"]["lineage_root"] == bento["labels"]["lineage_root"] == statement.root
    assert model["labels"]["scorer_hash"].startswith(scorer.version)


def test_a_crash_leaves_nothing(left_by_a_crash: list[Path]) -> None:
    assert left_by_a_crash == []


def test_an_incomplete_model_is_replaced(root: Path, folder: Path, published: Published) -> None:
    statement = read_statement(folder)
    model = root / ".bentoml" / "models" / statement.tag.replace(":", "/")
    assert assay.load(model).statement.tag == published.model_tag
    assert read_statement(model).content == statement.content
    assert [path.name for path in model.parent.iterdir() if path.is_dir()] == [model.name]


def test_a_second_statement_of_a_scorer_is_published_beside_the_first(
    root: Path, folder: Path, published: Published, tmp_path: Path
) -> None:
    """The same function has two Bentos, since what they answer names where it comes from."""
    shutil.copytree(folder, tmp_path / folder.name)
    shutil.copy(CHECKOUT / "bentofile.yaml", tmp_path)
    second = add_statement(tmp_path / folder.name, NAME, note="again")
    again = find_packaged(tmp_path / folder.name, tmp_path)
    twice = [replace(again, statement=read_statement(again.folder, each)) for each in statement_ids(again.folder)]
    (other,) = (each for each in twice if each.statement.id == second)
    made = publish(other, root=tmp_path, chain_head=CHAIN_HEAD)
    assert (made.scorer, made.statement) == (published.scorer, second)
    assert made.bento_tag != published.bento_tag
    model = tmp_path / ".bentoml" / "models" / made.model_tag.replace(":", "/")
    assert statement_ids(model) == [second]
    assert hash_file(model / "scorer.json") == hash_file(folder / "scorer.json")


def test_scorers_are_listed(root: Path, folder: Path, published: Published, scorer: Scorer) -> None:
    broken = folder.parents[1] / "other" / folder.name
    shutil.copytree(folder, broken)
    (broken / "detector.safetensors").unlink()
    listed = {row["name"]: row for row in list_scorers(root)}
    assert "detector.safetensors is missing" in listed["other"]["broken"]
    statement = scorer.statement
    shared = {
        "statement": statement.id,
        "bento": published.bento_tag,
        "broken": None,
        "quarantined": {},
        "detector": "isolation_forest",
        "adapter": "cadet",
        "data_version": DATA_VERSION,
        "lineage_root": statement.root,
    }
    assert listed[NAME] == {
        "name": NAME,
        "version": scorer.version,
        "tag": scorer.tag,
        "champion": False,
        "where": "here",
        "eps": 0.05,
        "folder": str(folder),
        **shared,
        "statements": [{**shared, "tag": statement.tag, "folder": str(folder), "deployed": False}],
    }
    shutil.rmtree(broken.parent)


def test_scorers_of_the_store_are_listed_when_their_folder_is_gone(
    root: Path, published: Published, scorer: Scorer, tmp_path: Path
) -> None:
    shutil.copytree(root / ".bentoml", tmp_path / ".bentoml")
    (row,) = list_scorers(tmp_path)
    assert row["tag"] == scorer.tag
    assert row["folder"] == str(tmp_path / ".bentoml" / "models" / scorer.statement.tag.replace(":", "/"))


def test_a_changed_scorer_is_not_published(folder: Path, tmp_path: Path) -> None:
    changed = tmp_path / folder.name
    shutil.copytree(folder, changed)
    head = changed / "scorer.json"
    head.write_text(head.read_text().replace("0.05", "0.06"))
    with pytest.raises(TamperedError, match="is about another scorer"):
        publish(find_packaged(changed), root=tmp_path, chain_head=CHAIN_HEAD)
    shutil.copy(folder / "scorer.json", head)
    (changed / "detector.safetensors").write_bytes(b"")
    with pytest.raises(TamperedError, match=r"detector\.safetensors was changed"):
        publish(find_packaged(changed), root=tmp_path, chain_head=CHAIN_HEAD)


def test_a_scorer_cannot_name_files_of_others(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"secret")
    changed = tmp_path / "scorer"
    shutil.copytree(folder, changed)
    head = json.loads((changed / "scorer.json").read_bytes())
    head["files"]["../key"] = hashlib.sha256(b"secret").hexdigest()
    (changed / "scorer.json").write_text(json.dumps(head))
    with pytest.raises(ScorerError, match=r"'\.\./key', which is not in its folder"):
        publish(find_packaged(changed), root=tmp_path, chain_head=CHAIN_HEAD)


def test_a_name_that_bentoml_refuses_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'Kidney-' cannot be published"):
        publish(find_packaged(fit_scorer(tmp_path, "Kidney-")), root=tmp_path, chain_head=CHAIN_HEAD)


def test_serve_says_that_a_port_is_in_use(root: Path, folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ToolError, match=f"port {port}: Address already in use"):
            serve(str(folder), root=root, host="127.0.0.1", port=port)


def test_serve_says_that_there_is_no_scorer(root: Path) -> None:
    with pytest.raises(ScorerError, match="no champion"):
        serve("nothing", root=root, host="127.0.0.1", port=free_port())


def test_a_server_has_one_scorer_of_each_dataset(root: Path, folder: Path, published: Published) -> None:
    other = fit_scorer(root / "other", "other")
    with pytest.raises(ConfigError, match="is a scorer of other, which is not served"):
        serve(published.model_tag, root=root, host="127.0.0.1", port=free_port(), shadow=str(other))
    for tags in ((published.model_tag, str(folder)), (published.model_tag,) * 2):
        with pytest.raises(ConfigError, match="is given twice; a server has one scorer of each dataset"):
            serve(*tags, root=root, host="127.0.0.1", port=free_port())


def test_serve_needs_a_token_where_others_can_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 is not loopback, .* `assay token new score` makes one"):
        serve("nothing", root=tmp_path, host="0.0.0.0", port=port)
    new_token(tokens_path(tmp_path), "score")
    with pytest.raises(ScorerError, match="no champion"):
        serve("nothing", root=tmp_path, host="0.0.0.0", port=port)
    monkeypatch.setenv(TOKENS, str(tmp_path / "others.json"))
    with pytest.raises(ConfigError, match="ASSAY_TOKENS is set, and there is no token yet"):
        serve("nothing", root=tmp_path, host="127.0.0.1", port=port)


def test_nothing_of_a_killed_server_is_left(root: Path, published: Published, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", SERVE, published.model_tag, str(root), str(port)]
    with running(command, port, tmp_path / "log", tmp_path, dict(os.environ)) as (_, process):
        assert len(at_work(tmp_path)) == 2  # the server, and what watches its scores
        process.kill()
        process.wait()
        wait_until_none_works(tmp_path)
        with socket.create_server(("127.0.0.1", port)) as free:
            assert free.getsockname()[1] == port


def test_promotion_is_recorded_and_logged(root: Path, folder: Path, tmp_path: Path) -> None:
    events = EventLog(tmp_path / ".assay" / "events.jsonl")
    assert read_deployment(tmp_path, NAME) is None
    promote(tmp_path, NAME, "a" * 12, statement="1" * 12, bento="b:a", reason="first")
    promote(tmp_path, NAME, "c" * 12, statement="2" * 12, bento="b:c", reason="better")
    deployment = promote(tmp_path, NAME, "c" * 12, statement="3" * 12, bento="b:c", reason="again")
    assert read_deployment(tmp_path, NAME) == deployment
    assert (deployment.tag, deployment.previous, deployment.reason) == (
        f"{NAME}:{'c' * 12}",
        "a" * 12,
        "again",
    )
    assert deployment.statement == "3" * 12
    promoted = events.last("promoted")
    assert promoted is not None
    assert (promoted["version"], promoted["statement"]) == ("c" * 12, "3" * 12)
    keep(tmp_path, NAME, "d" * 12, statement="4" * 12, reason="worse", events=events)
    kept = events.last("champion-kept")
    assert kept is not None
    assert (kept["version"], kept["challenger"], kept["reason"]) == ("c" * 12, "d" * 12, "worse")
    assert (kept["statement"], kept["challenger_statement"]) == ("3" * 12, "4" * 12)
    events.check()
    (row,) = list_scorers(tmp_path)
    assert row["champion"]
    assert row["where"] == "lost"
    assert f"{'c' * 12} is lost" in row["broken"]


def test_the_bento_pins_what_is_installed() -> None:
    packages = yaml.safe_load((CHECKOUT / "bentofile.yaml").read_text())["python"]["packages"]
    for name, version in (package.split("==") for package in packages):
        assert importlib.metadata.version(name).partition("+")[0] == version
