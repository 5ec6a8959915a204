"""The client of docs/serving.md."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from tests.unit.service.conftest import Serve

from assay.scorer.scorer import Scorer
from assay.service.guard import Access
from assay.service.limits import SERVICE_LIMITS
from assay.service.tokens import TokenFile, new_token

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


def test_the_client_scores_a_file(scorer: Scorer, serving: Serve, tmp_path: Path) -> None:
    (client,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in client.splitlines() if line]) <= 40
    (tmp_path / "client.py").write_text(client)
    rows = np.random.default_rng(0).normal(15, 5, size=(3, len(scorer.columns)))
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["id", *scorer.columns], *([f"a,{i}", *row] for i, row in enumerate(rows.tolist()))]
        )
    _, token = new_token(tmp_path / "tokens.json", "score")
    access = Access(TokenFile(tmp_path / "tokens.json"), True)
    with serving(scorer, SERVICE_LIMITS, access) as (http, _):
        command = [sys.executable, "client.py", "rows.csv", str(http.base_url).rstrip("/")]
        options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
        done = subprocess.run(command, env={"ASSAY_TOKEN": token}, **options)
        refused = subprocess.run(command, env={}, **options)
    assert done.returncode == 0, done.stderr
    result = list(csv.DictReader(io.StringIO(done.stdout)))
    judged = scorer.judge(rows)
    assert [row["id"] for row in result] == ["a,0", "a,1", "a,2"]
    assert [float(row["score"]) for row in result] == judged.scores.astype(np.float64).tolist()
    assert [float(row["p_value"]) for row in result] == judged.p_values.tolist()
    assert refused.returncode == 1
    assert refused.stderr.startswith("this service needs a token;")
