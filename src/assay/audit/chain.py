"""The chain behind a scorer: its records, and intact copies of the recorded files."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from assay.data.answers import ANSWER_COLUMNS
from assay.data.labelling import QUESTION_COLUMNS
from assay.errors import ScorerError, TamperedError
from assay.eventlog import EventLog
from assay.hashing import RECORD, Record, hash_bytes, hash_file
from assay.parts import parse_json
from assay.project.accounts import accounts_of, merged
from assay.project.archive import Archive, Listing
from assay.project.layout import Project
from assay.project.scorers import find_packaged
from assay.project.stages import STAGES
from assay.scorer.folder import HEAD, read_head
from assay.scorer.statement import STATEMENTS, Statement

UNKNOWN_STAGE = "not known to this version of Assay; use the version that made the scorer"
_COLUMNS = {"labels": QUESTION_COLUMNS, "answers": ANSWER_COLUMNS}
DOWNSTREAM = tuple(stage for stage, entry in STAGES.items() if not entry.behind)


@dataclass(frozen=True)
class Chain:
    """A scorer, one of its statements, and the records behind it.

    Attributes
    ----------
    project : Project
    folder : Path
        The scorer folder.
    head : dict
        Content of ``scorer.json``.
    statement : Statement
    records : dict of str to Record
        By stage: those of the statement; also those of the stages downstream of the scorer's parts (``evaluate``,
        ``package``), where work/ or DVC's cache holds them.
    contents : dict of str to bytes
        The bytes of the same records.
    archive : Archive
    accounts : tuple of tuple of dict
        The events of each machine whose history is here, this machine's first; without those that cannot be read.
    """

    project: Project
    folder: Path
    head: dict[str, Any]
    statement: Statement
    records: dict[str, Record]
    contents: dict[str, bytes]
    archive: Archive
    accounts: tuple[tuple[dict[str, Any], ...], ...]

    @cached_property
    def events(self) -> tuple[dict[str, Any], ...]:
        """The events of all machines, by time."""
        return tuple(merged(self.accounts))

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.statement.name

    @property
    def version(self) -> str:
        """Version of the scorer."""
        return self.statement.version

    @property
    def tag(self) -> str:
        """``name:version``."""
        return f"{self.name}:{self.version}"

    @property
    def data_version(self) -> str:
        """DVC's hash of the dataset's folder that the scorer was trained on."""
        return self.statement.data_version

    @property
    def candidate(self) -> tuple[str, str, str]:
        """Detector, adapter and level of the packaged candidate."""
        chosen = self.statement.candidate
        return chosen["detector"], chosen["adapter"], chosen["level"]

    def named(self, stage: str) -> str:
        """SHA-256 by which the statement names the record of a stage, "" where it names none."""
        return self.statement.record_hashes.get(stage, "")

    @property
    def unknown(self) -> list[str]:
        """Stages in the statement that this version does not know; their records are not read."""
        return sorted(set(self.statement.record_hashes) - set(STAGES))

    @property
    def behind(self) -> dict[str, Record]:
        """The records in the statement: those of the stages that made the scorer."""
        return {stage: record for stage, record in self.records.items() if stage in self.statement.record_hashes}

    @property
    def params(self) -> dict[str, Any]:
        """Every parameter behind the scorer, by its name in params.yaml."""
        return {name: value for record in self.behind.values() for name, value in record.params.items()}

    @property
    def code(self) -> dict[str, str]:
        """Code behind the scorer as `assay.project.modules.code_of` names it; "" where records disagree."""
        hashes: dict[str, str] = {}
        for record in self.behind.values():
            for path, digest in record.code.items():
                hashes[path] = digest if hashes.get(path, digest) == digest else ""
        return hashes

    @property
    def made_by(self) -> str:
        """Version of the installed Assay that made the scorer, "" where the code was the project's own."""
        return " and ".join(sorted({record.assay for record in self.behind.values() if record.assay is not None}))

    @property
    def data(self) -> dict[str, str]:
        """SHA-256 of the raw files of the dataset."""
        return {path: digest for path, digest in self._outside.items() if path.startswith("data/")}

    @property
    def settings(self) -> dict[str, str]:
        """SHA-256 of the user's own files that a stage read, which Git keeps: the suite and the like."""
        return {path: digest for path, digest in self._outside.items() if not path.startswith("data/")}

    @property
    def _outside(self) -> dict[str, str]:
        inputs = {path: digest for record in self.behind.values() for path, digest in record.inputs.items()}
        return {path: digest for path, digest in sorted(inputs.items()) if not path.startswith("work/")}

    def work(self, stage: str) -> Path:
        """Folder of the newest run's outputs of a stage; of a cell, that of the scorer's detector."""
        record = self.records.get(stage)
        return work_folder(self.project, self.name, stage, None if record is None else record.detector)

    def archived(self, stage: str) -> Listing | None:
        """Return the listing of a stage's folder in DVC's cache, None where the cache does not hold it."""
        if stage not in self.contents:
            return None
        folder = self.archive.folder_with(RECORD, self.contents[stage])
        return None if folder is None else self.archive.folders[folder]

    def find(self, stage: str, name: str) -> Path | None:
        """Return a file with the recorded bytes of a stage's output: from work/, else from DVC's cache."""
        digest = self.records[stage].outputs.get(name) if stage in self.records else None
        if digest is None:
            return None
        if _has(current := self.work(stage) / name, digest):
            return current
        listing = self.archived(stage) or {}
        return self._cached(listing[name], digest) if name in listing else None

    def find_data(self, path: str) -> Path | None:
        """Return a file with the recorded bytes of a raw file of the dataset: from data/, else from DVC's cache."""
        digest, current = self.data[path], self.project.root / path
        if _has(current, digest):
            return current
        listing = self.archive.data(self.name, self.data_version) or {}
        md5 = listing.get(path.removeprefix(f"data/{self.name}/"))
        return None if md5 is None else self._cached(md5, digest)

    def _cached(self, md5: str, digest: str) -> Path | None:
        path = self.archive.object(md5)
        return path if path is not None and _has(path, digest) else None

    def json(self, stage: str, name: str) -> Any:
        """Return the content of a recorded JSON output, None where no intact copy of it is left."""
        path = self.find(stage, name)
        return None if path is None else parse_json(path.read_bytes())

    def rows(self, stage: str, folder: str) -> list[dict[str, str]] | None:
        """Return the rows of a recorded ``rows.csv`` as text, None where no intact copy of it is left."""
        path = self.find(stage, f"{folder}/rows.csv")
        if path is None:
            return None
        with path.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    def collect(self, stage: str, into: Path, *parts: str) -> Path:
        """Copy a stage's recorded outputs (those under `parts`, if given) to a folder and return it.

        Raises
        ------
        ScorerError
            No intact copy of one is left; the message names possible sources.
        """
        for name in self.records[stage].outputs:
            if parts and not name.startswith(parts):
                continue
            path = self.find(stage, name)
            if path is None:
                raise ScorerError(
                    f"{self.work(stage) / name} is not what {self.tag} was made with, and DVC's cache does not "
                    f"hold it; {where_from(self.archive)}"
                )
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, into / name)
        return into


def require_records(chain: Chain) -> None:
    """Raise `ScorerError` if a record that a scorer names is missing, or belongs to an unknown stage."""
    if chain.unknown:
        raise ScorerError(f"stage {chain.unknown[0]} of {chain.tag}: {UNKNOWN_STAGE}")
    if missing := [stage for stage in chain.statement.record_hashes if stage not in chain.records]:
        raise ScorerError(
            f"the record of stage {missing[0]} in {chain.folder} is broken or missing; "
            f"see `assay audit verify {chain.folder}`"
        )


def where_from(archive: Archive) -> str:
    """Return advice on where to get files that DVC's cache lacks."""
    if archive.remote is None:
        return (
            "no DVC remote is configured: add the one that holds it (`dvc remote add -d NAME ADDRESS`), then `dvc pull`"
        )
    return f"`dvc pull` it from the remote {archive.remote} (`assay audit show` names the commit)"


def before_entries(path: str, digest: str) -> bytes | None:
    """Return the content of an empty file of labels or target rows if the recorded file was empty, else None.

    People edit these files by hand or by commands that do not log it, so the empty version may be in no Git commit.
    """
    contents = {name: f"{','.join(columns)}\n".encode() for name, columns in _COLUMNS.items()} | {"targets": b""}
    content = contents.get(path.partition("/")[0])
    return content if content is not None and hash_bytes(content) == digest else None


def work_folder(project: Project, name: str, stage: str, detector: str | None = None) -> Path:
    """Return the folder of the newest run's outputs of a dataset's stage, or of one of its cells."""
    if stage == "package":
        return project.root / "work" / "package" / name
    return project.root / "work" / name / stage / (detector or "")


def read_chain(project: Project, tag: str) -> Chain:
    """Read a scorer's head, a statement of it (see `assay.project.scorers.find_packaged`) and the records behind it.

    Missing or broken records are left out; `assay.audit.verify.verify_scorer` names them.

    Raises
    ------
    ScorerError
        There is no such scorer or statement, or its scorer.json is not valid.
    TamperedError
        The statement was changed.
    """
    packaged = find_packaged(tag, project.root)
    folder, statement = packaged.folder.resolve(), packaged.statement
    record_contents = {
        stage: content
        for stage, content in statement.records.items()
        if stage in STAGES and hash_bytes(content) == statement.record_hashes[stage]
    }
    records = {stage: parse_record(content) for stage, content in record_contents.items()}
    chain = Chain(
        project=project,
        folder=folder,
        head=read_head(folder),
        statement=statement,
        records={stage: record for stage, record in records.items() if record is not None},
        contents={stage: content for stage, content in record_contents.items() if records[stage] is not None},
        archive=Archive(project.root),
        accounts=tuple(_events(account.log) for account in accounts_of(project.root)),
    )
    for stage in DOWNSTREAM:
        if (content := _downstream_content(chain, stage)) is not None and (record := parse_record(content)) is not None:
            chain.contents[stage], chain.records[stage] = content, record
    return chain


def parse_record(content: bytes) -> Record | None:
    """Return the record with that content, None if it is not a record."""
    try:
        return Record.from_json(parse_json(content))
    except ValueError:
        return None


def _events(log: EventLog) -> tuple[dict[str, Any], ...]:
    try:
        return tuple(log)
    except TamperedError:
        return ()


def _has(path: Path, digest: str) -> bool:
    return path.is_file() and hash_file(path) == digest


def _downstream_content(chain: Chain, stage: str) -> bytes | None:
    """Return the record of a downstream stage whose inputs or outputs are those of the scorer, the newest logged."""
    current = chain.work(stage) / RECORD
    marks = {"evaluate": ["evaluation.json"], "package": packaged_files(chain)}.get(stage, [])
    cached = [chain.archive.object(listing[RECORD]) for listing in chain.archive.folders_with(RECORD, *marks)]
    contents = [path.read_bytes() for path in (current, *cached) if path is not None and path.is_file()]
    fitting = [content for content in contents if _fits(chain, stage, content)]
    log_positions = {e.get("record"): number for number, e in enumerate(chain.events) if e.get("stage") == stage}
    return max(fitting, key=lambda content: log_positions.get(hash_bytes(content), -1), default=None)


def packaged_files(chain: Chain) -> list[str]:
    """Return the files by which the outputs of the stage package are told to be the scorer with the statement."""
    own = [] if chain.statement.is_embedded else [f"{chain.version}/{STATEMENTS}/{chain.statement.path.name}"]
    return [f"{chain.version}/{HEAD}", *own]


def _fits(chain: Chain, stage: str, content: bytes) -> bool:
    record = parse_record(content)
    if record is None or record.stage != stage or record.dataset != chain.name:
        return False
    if stage == "package":
        hashes = dict(zip(packaged_files(chain), (chain.statement.scorer, chain.statement.hash), strict=False))
        return all(record.outputs.get(name) == digest for name, digest in hashes.items())
    eps = chain.head["eps"]
    return _reads_from(chain, record) and bool(record.params.get("eps", eps) == eps)


def _reads_from(chain: Chain, record: Record) -> bool:
    """Return whether a record has stage outputs among its inputs, and all of them are those of the chain."""
    compared = []
    for path, digest in record.inputs.items():
        top, _, stage_path = path.partition(f"/{chain.name}/")
        stage, _, name = stage_path.partition("/")
        detector = chain.records[stage].detector if stage in chain.records else None
        if detector is not None:
            label, _, name = name.partition("/")
            if label != detector:
                continue
        if top == "work" and stage in chain.records:
            content = chain.contents[stage]
            compared.append(
                digest == (hash_bytes(content) if name == RECORD else chain.records[stage].outputs.get(name))
            )
    return bool(compared) and all(compared)


def event_of(chain: Chain, event: str, **fields: Any) -> dict[str, Any] | None:
    """Return the newest event of that name, of any machine, whose entries equal `fields`, or None."""
    return _newest(chain.events, {"event": event, **fields})


def own_event_of(chain: Chain, event: str, **fields: Any) -> dict[str, Any] | None:
    """Return the newest event of this machine; see `event_of`."""
    return _newest(chain.accounts[0], {"event": event, **fields})


def _newest(events: Sequence[dict[str, Any]], criteria: dict[str, Any]) -> dict[str, Any] | None:
    return next((each for each in reversed(events) if all(each.get(k) == v for k, v in criteria.items())), None)
