"""Requests that Schemathesis makes up from the OpenAPI document: no 5xx, no crash, and answers as the document says."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.unit.service.conftest import Serve
from tests.waiting import HANG_SECONDS

from assay.scorer.loading import load_scorer
from assay.service.limits import SERVICE_LIMITS

FROZEN = Path(__file__).parents[2] / "frozen"
RUN = "from schemathesis.cli import schemathesis; schemathesis()"
# No schema says that lists are equally long, or that eps is given once: other tests show that fitting bodies pass.
OPTIONS = "--exclude-checks positive_data_acceptance --continue-on-failure --no-color --seed 0 --max-examples"


def attack(serving: Serve, schema: int, examples: int, cwd: Path) -> int:
    """Run Schemathesis on the scorer of a schema; return how many requests it made."""
    (head,) = (FROZEN / f"scorer-{schema}").glob("*/scorer.json")
    with serving(load_scorer(head.parent), SERVICE_LIMITS) as (client, _):
        command = [sys.executable, "-c", RUN, "run", f"{client.base_url}/openapi.json", *OPTIONS.split(), str(examples)]
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, check=False, timeout=HANG_SECONDS, encoding="utf-8"
        )
        assert client.get("/livez").status_code == 200
    assert done.returncode == 0, done.stdout + done.stderr
    made = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert made is not None, done.stdout
    assert made[1] == made[2]
    return int(made[1])


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="Schemathesis is not installed; `make test` installs it")
def test_no_request_that_the_document_allows_or_forbids_is_a_mistake(serving: Serve, tmp_path: Path) -> None:
    assert attack(serving, 3, 10, tmp_path) >= 100


@pytest.mark.long
@pytest.mark.skipif(find_spec("schemathesis") is None, reason="Schemathesis is not installed; `make test` installs it")
@pytest.mark.parametrize("schema", [1, 2, 3])
def test_none_of_many_requests_is_a_mistake(serving: Serve, schema: int, tmp_path: Path) -> None:
    assert attack(serving, schema, 300, tmp_path) >= 1000
