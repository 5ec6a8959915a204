"""The scorers that a server answers by: those of its plan, and the champions that come after them."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import TypeAdapter
from starlette.applications import Starlette

from assay.errors import AssayError, ScorerError
from assay.parts import read_json
from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer
from assay.service.answers import versions
from assay.service.monitors import ensure_monitors, monitors_path, shown_monitors
from assay.service.projects import for_clients
from assay.service.recording import Extra, Recorder
from assay.service.routes import set_scorer
from assay.service.shadow import Shadow
from assay.service.spool import Spool
from assay.service.telling import tell

_LOOK_SECONDS = 0.5
_RETRY_SECONDS = 5.0
_ID = re.compile("[0-9a-f]{12}")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """A dataset of a server.

    Attributes
    ----------
    folder, statement : str
        The scorer that answers at first, and one of its statements.
    record : str or None
        The deployment record, a file that names the champion; None where the scorer stays.
    stores : tuple of str
        Where a champion's folder may be, with ``{version}`` and ``{statement}`` in it.
    shadow : tuple of (str, str), or None
        Folder and statement of a challenger, which answers nothing.
    extra : tuple of (str, str)
        The columns of recorded rows that are no features; see `Recorder`.
    """

    folder: str
    statement: str
    record: str | None = None
    stores: tuple[str, ...] = ()
    shadow: tuple[str, str] | None = None
    extra: Extra = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a server is to do.

    Attributes
    ----------
    served : tuple of Served
    watcher : tuple of str, or None
        The command of the process that feeds the monitors, which ends when its standard input is closed.
    project : str or None
        The project whose datasets' labels are kept.
    record : str or None
        The folder for scored rows.
    share : float
        Of the rows that are recorded.
    """

    served: tuple[Served, ...]
    watcher: tuple[str, ...] | None = None
    project: str | None = None
    record: str | None = None
    share: float = 1.0

    def to_json(self) -> str:
        """Return it as the argument of a server's process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what `to_json` wrote."""
        return TypeAdapter(cls).validate_json(text)


class Following:
    """Loads the scorers of a plan, and in a ``with`` block follows the champions, in a thread.

    A new champion is loaded and checked beside the old one, then takes its place: each request is answered by one of
    them. One that cannot be loaded leaves the old one in its place, and is tried again when it changes, and every
    some seconds.

    Parameters
    ----------
    application : Starlette
    plan : Plan

    Raises
    ------
    ScorerError, TamperedError
        A scorer of the plan cannot be loaded.
    """

    def __init__(self, application: Starlette, plan: Plan) -> None:
        self._application, self.plan = application, plan
        self._champions: dict[str, _Champion] = {}
        shared = application.state.shared
        shared.feedback = None if plan.project is None else Path(plan.project)
        for served in plan.served:
            scorer = load_scorer(Path(served.folder), served.statement)
            self._champions[scorer.name] = _Champion(scorer, served)
            if plan.record is not None:
                shared.recorders[scorer.name] = Recorder(Path(plan.record), plan.share, served.extra)
            if served.shadow is not None:
                challenger = load_scorer(Path(served.shadow[0]), served.shadow[1])
                ensure_monitors(challenger)
                shared.shadows[scorer.name] = Shadow(challenger, shared.metrics)
            ensure_monitors(scorer)
            set_scorer(application, scorer)
        shared.live = self.live
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="following", daemon=True)

    @property
    def answering(self) -> str:
        """A sentence without its end: which scorers answer."""
        tags = [champion.scorer.tag for champion in self._champions.values()]
        return f"{tags[0]} answers" if len(tags) == 1 else f"{', '.join(tags)} answer"

    def live(self, scorer: Scorer) -> dict[str, Any]:
        """Return what /info says of a scorer that only the server knows; /metrics shows it from then on."""
        champion, shared = self._champions[scorer.name], self._application.state.shared
        shared.metrics.stuck.labels(scorer.name).set(bool(champion.problem))
        problem = None if champion.problem is None else for_clients(champion.problem)
        following = None if champion.record is None else {"record": champion.record.name, "problem": problem}
        shadow, challenger = shared.shadows.get(scorer.name), None
        if shadow is not None:
            challenger = {**versions(shadow.scorer), "monitors": self._monitors(shadow.scorer)}
        return {"monitors": self._monitors(scorer), "following": following, "challenger": challenger}

    def _monitors(self, scorer: Scorer) -> list[dict[str, Any]] | None:
        scores = Spool.of(scorer).path
        monitors = [] if scores is None else shown_monitors(monitors_path(scores))
        self._application.state.shared.metrics.show_monitors(scorer.name, scorer.version, monitors)
        return [asdict(each) for each in monitors] or None

    def __enter__(self) -> Self:
        if any(champion.record is not None for champion in self._champions.values()):
            # A worker in the place of one that ended comes from a process that has the first champion still.
            self._look()
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        shared = self._application.state.shared
        shared.notes.write()
        for shadow in shared.shadows.values():
            shadow.finish()

    def _follow(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        for champion in self._champions.values():
            former = champion.scorer.statement.tag
            if champion.look(partial(set_scorer, self._application)):
                tell(f"{champion.scorer.statement.tag} answers now, in place of {former}")


class _Champion:
    """The scorer that answers for a dataset, and the record of its champion."""

    def __init__(self, scorer: Scorer, served: Served) -> None:
        self.scorer, self.stores = scorer, served.stores
        self.record = None if served.record is None else Path(served.record)
        self.problem: str | None = None
        self._seen: tuple[int, ...] = ()
        self._again = 0.0

    def look(self, use: Callable[[Scorer], None]) -> bool:
        """Load the champion where it is not the scorer that answers, and use it; return whether it is another one."""
        if self.record is None:
            return False
        try:
            status = self.record.stat()
            seen = status.st_ino, status.st_mtime_ns, status.st_size
            if seen == self._seen and (self.problem is None or time.monotonic() < self._again):
                return False
            self._seen = seen
            scorer = self._load(*_named(self.record))
            if scorer is not None:
                ensure_monitors(scorer)
                use(scorer)
        except Exception as error:  # whatever is wrong with the new one, the old one goes on
            self._again = time.monotonic() + _RETRY_SECONDS
            is_foreseen = isinstance(error, AssayError | OSError)
            problem = f"{'' if is_foreseen else f'{type(error).__name__}: '}{error}"
            if problem != self.problem:
                _LOGGER.error("%s goes on answering: %s", self.scorer.statement.tag, problem)
            self.problem = problem
            return False
        self.problem = None
        if scorer is None:
            return False
        self.scorer = scorer
        return True

    def _load(self, version: str, statement: str | None) -> Scorer | None:
        if version == self.scorer.version and statement in (None, self.scorer.statement.id):
            return None
        folders = [Path(s.replace("{version}", version).replace("{statement}", str(statement))) for s in self.stores]
        copies = [folder for folder in folders if folder.is_dir()]
        if not copies:
            raise ScorerError(f"{version} is the champion, but there is no {folders[0]}; `assay restore` may bring it")
        scorer, folder = _first_whole(copies, statement)
        if (scorer.name, scorer.version) != (self.scorer.name, version):
            raise ScorerError(f"{folder} holds {scorer.tag}, not {self.scorer.name}:{version}, which is the champion")
        return scorer


def _first_whole(copies: list[Path], statement: str | None) -> tuple[Scorer, Path]:
    for folder in copies[:-1]:
        with suppress(AssayError, OSError):
            return load_scorer(folder, statement), folder
    return load_scorer(copies[-1], statement), copies[-1]


def _named(record: Path) -> tuple[str, str | None]:
    """Return the version and the statement that a deployment record names."""
    content = read_json(record)
    named = [content.get(key) for key in ("version", "statement")] if isinstance(content, dict) else [None]
    if not all(isinstance(each, str) and _ID.fullmatch(each) for each in named if each is not None) or not named[0]:
        raise ScorerError(f"{record} is not a deployment record; name the champion again with `assay promote`")
    return named[0], named[1]
