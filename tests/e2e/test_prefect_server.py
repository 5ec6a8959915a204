"""Where Prefect cannot be used, a run says so in one line."""

from __future__ import annotations

import json
from urllib.request import urlopen

from tests.conftest import QUICK, Checkout, prefect_url


def test_a_server_that_cannot_be_used_is_named_in_one_line(finished: Checkout) -> None:
    finished.params(QUICK.replace("n_estimators: 25", "n_estimators: 26"))
    (line,) = finished.assay("run", code=1, PREFECT_API_URL="http://127.0.0.1:9/api").stderr.splitlines()
    assert line.startswith("assay: no Prefect server answers at PREFECT_API_URL=http://127.0.0.1:9/api")
    (finished.root / ".prefect").write_text("where Prefect wants a folder")
    (line,) = finished.assay("run", code=1, PREFECT_API_URL="").stderr.splitlines()
    assert line.startswith("assay: the local Prefect server did not start; its log is ")


def test_the_page_of_the_server_asks_this_server() -> None:
    with urlopen(f"{prefect_url().removesuffix('/api')}/ui-settings") as answer:
        assert json.load(answer)["api_url"] == prefect_url()
