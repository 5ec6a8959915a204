"""What the page asks of the project that a server was started in: its scorers, report and lineage, and to promote.

The service knows no project. It runs the command `assay` in the project's folder, one at a time.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from functools import partial
from html import escape
from pathlib import Path

import orjson
from starlette.requests import Request
from starlette.responses import Response

from assay.errors import InputError, RequestError
from assay.scorer.scorer import Scorer
from assay.service.guard import require_role, token_id
from assay.service.limits import Limits
from assay.service.metrics import SHARED_FOLDER
from assay.service.receiving import RETRY_SECONDS, Held, HeldBytes, receive_body

PROJECT, _STORE = "ASSAY_PROJECT", "BENTOML_HOME"
# Files of HTML that others wrote: they run nothing, and are of no origin.
_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_COMMAND = "from assay.cli.main import main; main()"
_TAG = re.compile(r"[\w.][-\w.]*:[0-9a-f]{12}(-[0-9a-f]{12})?", re.ASCII)
_MOST_SIGNS = 500
_MOST_BYTES = 10_000


def for_clients(text: str) -> str:
    """Return a text, also one of HTML, in which no path says where the project and BentoML's store are."""
    for folder, name in ((os.environ.get(_STORE), "BentoML's store"), (os.environ.get(PROJECT), "the project")):
        for written in {folder, escape(folder)} if folder else ():
            pattern = rf"(?<![-./\w]){re.escape(written)}(/|(?![-.\w]))"
            text = re.sub(pattern, partial(_shown, name), text)
    return text


def _shown(name: str, match: re.Match[str]) -> str:
    return "" if match[1] else name


class ProjectActions:
    """The project of a server, if it has one."""

    def __init__(self) -> None:
        folder = os.environ.get(PROJECT)
        self._root = None if not folder else Path(folder)
        self._one = asyncio.Lock()

    async def offers(self, _: Request, scorer: Scorer) -> Response:
        """Return what there is to be asked for: whether there is a project, and a report in it."""
        is_there = self._root is not None
        offered = {"project": is_there, "report": is_there and self._report_of(scorer).is_file()}
        return Response(orjson.dumps(offered), media_type="application/json")

    async def scorers(self, _: Request, scorer: Scorer) -> Response:
        """Return the packaged scorers of a dataset."""
        listed = orjson.loads(for_clients((await self._run("scorers", "--json")).decode()))
        keys = ("tag", "detector", "adapter", "champion", "where", "broken", "quarantined")
        rows = [{key: row.get(key) for key in keys} for row in listed if row["name"] == scorer.name]
        for row in rows:
            # A project keeps what was champion, so that it can be rolled back to.
            kept = self._folder().joinpath("scorers", *str(row["tag"]).split(":"))
            row["former"] = not row["champion"] and kept.with_name(f"{kept.name}.dvc").is_file()
        return Response(orjson.dumps({"scorers": rows}), media_type="application/json")

    async def report(self, _: Request, scorer: Scorer) -> Response:
        """Return the report of the newest run of a dataset."""
        path = self._report_of(scorer)
        if not path.is_file():
            raise RequestError(404, f"there is no report of {scorer.name}; `assay run` writes one")
        return _page(path.read_bytes())

    async def lineage(self, _: Request, scorer: Scorer) -> Response:
        """Return the chain behind a scorer, with its statement."""
        tag = f"{scorer.tag}-{scorer.statement.id}"
        with tempfile.TemporaryDirectory(prefix="assay-lineage-") as folder:
            path = Path(folder) / "lineage.html"
            await self._run("audit", "show", "--html", str(path), "--", tag, broken=True)
            if not path.is_file():
                raise RequestError(503, f"the lineage of {tag} could not be drawn; see `assay audit show`")
            return _page(path.read_bytes())

    async def promote(self, request: Request, scorer: Scorer) -> Response:
        """Promote the scorer that the body names, `{"tag": ..., "why": ...}`; the token has to be of the role admin."""
        require_role(request, "admin")
        self._folder()
        with HeldBytes(Held(_MOST_BYTES)) as share:
            body = await receive_body(request, Limits(body=_MOST_BYTES), share)
        try:
            content = orjson.loads(body)
            tag, why = content["tag"], content["why"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError('the body is not {"tag": "NAME:VERSION", "why": "..."}; send that') from error
        if not (isinstance(tag, str) and _TAG.fullmatch(tag) and tag.startswith(f"{scorer.name}:")):
            raise InputError(
                f"tag is {tag!r}; give a scorer of this dataset, {scorer.name}:VERSION, that /scorers lists"
            )
        if not (isinstance(why, str) and why.strip() and len(why) <= _MOST_SIGNS and why.isprintable()):
            raise InputError(f"why is {why!r}; give a reason on one line, of at most {_MOST_SIGNS} signs")
        # The log names the person who runs the server; who asked for it is on record by the token.
        said = await self._run("promote", f"--why={why} (by token {token_id(request.scope)})", "--", tag)
        return Response(orjson.dumps({"said": for_clients(said.decode().strip())}), media_type="application/json")

    def _report_of(self, scorer: Scorer) -> Path:
        return self._folder() / ".assay" / "reports" / f"{scorer.name}.html"

    def _folder(self) -> Path:
        if self._root is None:
            raise RequestError(404, "this service was not started in a project by `assay serve`; ask there")
        return self._root

    async def _run(self, *arguments: str, broken: bool = False) -> bytes:
        """Run `assay`; its refusal is the answer's, unless an exit code beside 0 only says what it shows."""
        root = self._folder()
        environment = {key: value for key, value in os.environ.items() if key != SHARED_FOLDER}
        if self._one.locked():
            raise RequestError(503, "another command runs in the project; ask again later", retry_after=RETRY_SECONDS)
        async with self._one:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-c", _COMMAND, *arguments),
                cwd=root,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            # A client that goes, or a server that ends, leaves a command to finish what it began.
            out, err = await asyncio.shield(process.communicate())
        if process.returncode and not broken:
            refused = [line.removeprefix("assay: ") for line in err.decode().splitlines() if line.startswith("assay: ")]
            raise RequestError(
                409, for_clients(refused[-1]) if refused else f"`assay {arguments[0]}` failed; run it in the project"
            )
        return out


def _page(content: bytes) -> Response:
    headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff", "cache-control": "no-store"}
    shown = for_clients(content.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    return Response(shown, headers=headers, media_type="text/html")
