"""The process of the server: what it loads, and how it ends."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.waiting import HANG_SECONDS

from assay.scorer.statement import statement_ids
from assay.service.versions import Plan, Served

(PACKED,) = (head.parent for head in (Path(__file__).parents[2] / "frozen" / "scorer-3").glob("*/scorer.json"))

LOADED = """
import sys
from pathlib import Path
from assay.scorer.loading import load_scorer
from assay.service.server import make_server
from assay.service.routes import make_application
from assay.service.telemetry import traced
make_server(traced(make_application(load_scorer(Path(sys.argv[1])))))
print(sorted({"bentoml", "pandas", "pyarrow", "rich", "prefect", "dvc", "opentelemetry"} & set(sys.modules)))
"""


def test_the_server_loads_no_framework_and_no_tables() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, PACKED], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def serving(environment: dict[str, str]) -> tuple[subprocess.Popen[str], httpx.Client, socket.socket]:
    """Start the server of a packed scorer in a process of its own."""
    listening = socket.create_server(("127.0.0.1", 0))
    number = listening.fileno()
    plan = Plan((Served(str(PACKED), statement_ids(PACKED)[0]),)).to_json()
    command = [sys.executable, "-P", "-m", "assay.service.server", str(number), plan]
    process = subprocess.Popen(
        command,
        pass_fds=[number],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    host, port = listening.getsockname()
    return process, httpx.Client(base_url=f"http://{host}:{port}", timeout=HANG_SECONDS), listening


@pytest.mark.parametrize("variable", [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_TRACES_EXPORTER": "console"}])
def test_requests_are_traced_where_the_variables_of_opentelemetry_are_set(variable: dict[str, str]) -> None:
    process, client, listening = serving(variable)
    with process, client, listening:
        listening.close()
        assert client.get("/info", headers={"authorization": "Bearer secret"}).status_code == 200
        process.terminate()
        out, err = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0
    assert ('"name": "GET /info"' in out) == ("console" in variable.values())
    assert "secret" not in out + err


def test_an_exporter_of_traces_that_is_not_installed_is_named() -> None:
    process, client, listening = serving({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:9"})
    with process, client, listening:
        out, err = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 1
    assert "install opentelemetry-exporter-otlp-proto-http, or unset them" in err
    assert (out, len(err.splitlines())) == ("", 1)


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (lambda folder: (folder / "detector.safetensors").write_bytes(b""), 5, "detector.safetensors was changed"),
        (lambda folder: (folder / "scorer.json").unlink(), 1, "scorer.json"),
    ],
    ids=["changed", "missing"],
)
def test_a_scorer_that_cannot_be_loaded_ends_the_server_once(
    tmp_path: Path, damage: object, code: int, words: str
) -> None:
    folder = tmp_path / PACKED.name
    shutil.copytree(PACKED, folder)
    statement = statement_ids(folder)[0]
    assert callable(damage)
    damage(folder)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        plan = Plan((Served(str(folder), statement),)).to_json()
        command = [sys.executable, "-P", "-m", "assay.service.server", str(number), plan]
        done = subprocess.run(
            command, pass_fds=[number], capture_output=True, text=True, check=False, timeout=HANG_SECONDS
        )
    assert done.returncode == code
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("assay: ")
    assert words in line
