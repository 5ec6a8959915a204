"""The process of the server: what it loads, and how it ends."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

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
make_server(make_application(load_scorer(Path(sys.argv[1]))))
print(sorted({"bentoml", "pandas", "pyarrow", "rich", "prefect", "dvc"} & set(sys.modules)))
"""


def test_the_server_loads_no_framework_and_no_tables() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, PACKED], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


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
