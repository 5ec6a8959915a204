"""Scorers as BentoML models and Bentos, and the server of one scorer."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import assay
from assay.data.card import read_card
from assay.environment import SWITCHES, bentoml_home
from assay.errors import ConfigError, TamperedError, ToolError
from assay.eventlog import EventLog
from assay.hashing import hash_file, hash_tree
from assay.parts import write_json
from assay.project.accounts import machine_id, make_machine_id
from assay.project.deployment import deployment_path
from assay.project.layout import Project
from assay.project.pending import Change, log_of
from assay.project.scorers import MANIFEST, Packaged, check_scorer, find_packaged, is_intact, kept_folder
from assay.scorer.folder import HEAD, read_head
from assay.scorer.statement import Statement, read_statement, statement_files
from assay.service.access import ACCESS_LOG
from assay.service.guard import TOKENS_OPTIONAL
from assay.service.metrics import SHARED_FOLDER
from assay.service.projects import PROJECT
from assay.service.recording import Extra
from assay.service.spool import MONITORED, monitored_folder
from assay.service.tokens import TOKENS, read_tokens, tokens_path
from assay.service.versions import Plan, Served

TAG = re.compile(r"[a-z0-9]([-._a-z0-9]*[a-z0-9])?")
LONGEST_NAME = 63 - len("assay-")
BACKLOG = 1024
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Published:
    """The names of a scorer in BentoML.

    Attributes
    ----------
    scorer : str
        ``name:version``.
    statement : str
        Id of the statement that it was published with.
    model_tag, bento_tag : str
        The tag of the statement, ``name:version-statement``, with ``assay-`` before it for the Bento; for scorers of
        schemas 1 and 2 without the statement.
    bento_hash : str
        SHA-256 of the list of the Bento's files and their hashes.
    built : bool
        Whether this call built the Bento.
    """

    scorer: str
    statement: str
    model_tag: str
    bento_tag: str
    bento_hash: str
    built: bool


def publish(packaged: Packaged, *, root: Path, chain_head: str) -> Published:
    """Copy a scorer, with one statement, into BentoML's model store and build its Bento.

    An intact model or Bento is kept, an incomplete one is replaced. Both are written to a temporary folder next to the
    stores and renamed into place, so that nothing half-written has a final name; a new Bento is logged. Call it under
    the project's lock, unless `is_published`.

    Parameters
    ----------
    packaged : Packaged
    root : Path
        Project folder, with ``bentofile.yaml``; the stores are in ``BENTOML_HOME``, or else in its
        ``.bentoml``.
    chain_head : str
        Head of the event log, for the Bento's label.

    Raises
    ------
    TamperedError
        A file of the scorer is missing or was changed.
    ConfigError
        BentoML does not allow the dataset's name.
    ToolError
        BentoML could not build.
    """
    from filelock import FileLock

    check_scorer(packaged.folder)
    statement = packaged.statement
    name = statement.name
    if not TAG.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"dataset name {name!r} cannot be published; ingest it under another name: BentoML allows "
            f"a-z, 0-9, '-', '_' and '.', a letter or digit at both ends, and {LONGEST_NAME} characters"
        )
    home = bentoml_home(root)
    targets = _places_in(home, statement)
    missing = [target for target in targets if not is_intact(target)]
    if missing:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / ".publish.lock"):
            _publish(packaged, root, chain_head, [target for target in targets if not is_intact(target)])
    digest = hash_file(targets[1] / MANIFEST)
    scorer = f"{name}:{statement.version}"
    return Published(scorer, statement.id, statement.tag, f"assay-{statement.tag}", digest, targets[1] in missing)


def bind(published: Published, events: EventLog) -> None:
    """Check a Bento against the log; log one that it does not know, as earlier versions could leave it.

    Raises
    ------
    TamperedError
        The Bento is not the one that was built.
    """
    logged = events.last("published", bento=published.bento_tag)
    if logged is None:
        events.append(
            "published",
            scorer=published.scorer,
            statement=published.statement,
            bento=published.bento_tag,
            bento_hash=published.bento_hash,
        )
    elif logged["bento_hash"] != published.bento_hash:
        raise TamperedError(
            f"the Bento {published.bento_tag} is not the one that was built; find out why, then remove its folder "
            f"in BentoML's store to have it built again"
        )


def is_published(packaged: Packaged, root: Path) -> bool:
    """Return whether the model and the Bento of a scorer are there, intact and logged."""
    statement = packaged.statement
    logged = log_of(root).last("published", bento=f"assay-{statement.tag}")
    return logged is not None and all(map(is_intact, _places_in(bentoml_home(root), statement)))


def _publish(packaged: Packaged, root: Path, chain_head: str, targets: list[Path]) -> None:
    if not targets:
        return
    home = bentoml_home(root)
    with Change(root) as change:
        staging = change.folder(home, "publish")
        _run_build(packaged, root, chain_head, staging)
        event, details = None, {}
        for target in targets:
            built = staging / target.relative_to(home)
            write_json(built / MANIFEST, hash_tree(built))
            if target == _places_in(home, packaged.statement)[1]:
                event, details = "published", _described(packaged.statement, hash_file(built / MANIFEST))
            target.parent.mkdir(parents=True, exist_ok=True)
            change.place(built, target)
            change.write(target.parent / "latest", target.name.encode())
        change.commit(event, details)


def _places_in(home: Path, statement: Statement) -> tuple[Path, Path]:
    """Return where BentoML keeps the model and the Bento of a scorer with a statement."""
    name, _, version = statement.tag.partition(":")
    return home / "models" / name / version, home / "bentos" / f"assay-{name}" / version


def _described(statement: Statement, bento_hash: str) -> dict[str, str]:
    """Return what the log says of a Bento."""
    scorer, bento = f"{statement.name}:{statement.version}", f"assay-{statement.tag}"
    return {"scorer": scorer, "statement": statement.id, "bento": bento, "bento_hash": bento_hash}


def _run_build(packaged: Packaged, root: Path, chain_head: str, staging: Path) -> None:
    """Build in a child whose BENTOML_HOME is `staging`, from a copy of the package that is running."""
    bentofile = root / "bentofile.yaml"
    if not bentofile.is_file():
        raise ToolError(
            f"{bentofile} is missing; it defines the content of a Bento; `assay init` in an empty folder writes one"
        )
    context = staging / "context"
    package = Path(assay.__file__).parent
    shutil.copytree(package, context / "src" / "assay", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(bentofile, context)
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "assay.release.bento",
            str(packaged.folder.resolve()),
            packaged.statement.id,
            chain_head,
            machine_id(root) or make_machine_id(root),
        ],
        cwd=context,
        env=_environment(staging),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        last = " | ".join(process.stdout.strip().splitlines()[-3:])
        raise ToolError(f"BentoML could not build the Bento of {packaged.folder}: {last}")


def build(folder: Path, statement: str, chain_head: str, machine: str) -> None:
    """Build the model and the Bento of a scorer folder, with the statement of that id alone, in BENTOML_HOME.

    The Bento's labels name the head of the event log, and the machine whose log that is.

    The current folder is the build context. BentoML reads BENTOML_HOME once in a process and imports the
    service that it builds, so this runs in a child process.
    """
    import bentoml

    check_scorer(folder)
    sealed = read_statement(folder, statement)
    name, _, version = sealed.tag.partition(":")
    lineage = {"statement": sealed.id, "lineage_root": sealed.root, "data_version": sealed.data_version}
    with bentoml.models.create(
        f"{name}:{version}",
        module="assay",
        signatures={},
        labels={**lineage, "scorer_hash": sealed.scorer},
        context=bentoml.models.ModelContext(framework_name="assay", framework_versions={"assay": assay.__version__}),
    ) as model:
        for file in [HEAD, *read_head(folder)["files"], *statement_files(folder, sealed)]:
            Path(model.path_of(file)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, model.path_of(file))
    bentoml.bentos.build_bentofile(
        "bentofile.yaml",
        name=f"assay-{name}",
        version=version,
        labels={**lineage, "scorer": f"{sealed.name}:{sealed.version}", "chain_head": chain_head, "machine": machine},
        build_ctx=".",
        args={"scorer": f"{name}:{version}"},
    )


def serve(
    *tags: str,
    root: Path,
    host: str,
    port: int,
    access_log: bool = False,
    workers: int = 1,
    shadow: str | None = None,
    record: Path | None = None,
    share: float = 1.0,
) -> NoReturn:
    """Serve scorers over HTTP, one of each dataset: this process becomes the server, until a signal ends it.

    Parameters
    ----------
    *tags : str
        As for `find_packaged`; a missing Bento is built. The name of a dataset means its champion, now and later.
    root : Path
        Project folder.
    host : str
        Name or address of a network interface of this machine.
    port : int
    access_log : bool
        Whether each request is a line of JSON on standard output.
    workers : int
        Processes that answer.
    shadow : str, optional
        The tag of a challenger, of one of the datasets.
    record : Path, optional
        Folder for the rows that are scored, or for that share of them.
    share : float

    Raises
    ------
    ScorerError, TamperedError
        There is no such scorer, or it or its Bento was changed.
    ConfigError
        Two of the scorers are of one dataset; the challenger is of none of them; other machines could ask, and there is
        no token.
    ToolError
        Host and port cannot be listened on, or a Bento cannot be built.
    """
    with _listen(host, port) as listening:
        access = _access(listening, host, root)
        served = {tag: _published(tag, root) for tag in tags}
        names = [packaged.statement.name for packaged in served.values()]
        if repeated := [name for name in names if names.count(name) > 1] or tags[len(served) :]:
            raise ConfigError(f"{repeated[0]} is given twice; a server has one scorer of each dataset")
        home, folder = bentoml_home(root), monitored_folder(root)
        folder.mkdir(parents=True, exist_ok=True)
        listening.set_inheritable(True)
        environment = {
            **ONE_THREAD,
            **_environment(home),
            MONITORED: str(folder),
            **access,
            PROJECT: str(root.resolve()),
        }
        environment |= {ACCESS_LOG: "1"} if access_log else {}
        challenger = None if shadow is None else find_packaged(shadow, root)
        if challenger is not None and challenger.statement.name not in names:
            raise ConfigError(f"--shadow {shadow} is a scorer of {challenger.statement.name}, which is not served")
        planned = tuple(_planned(tag, packaged, challenger, root) for tag, packaged in served.items())
        live = len(names) + (challenger is not None)
        folder_of_rows = None if record is None else str(record.resolve())
        watcher = (sys.executable, "-P", "-m", "assay.runs.watcher", str(root.resolve()), str(live), *names)
        plan = Plan(planned, watcher, str(root.resolve()), folder_of_rows, share)
        server = ["-P", "-m", "assay.service.server", str(listening.fileno()), plan.to_json(), str(workers)]
        if workers > 1:
            environment[SHARED_FOLDER] = tempfile.mkdtemp(prefix="assay-serve-")
        # In the place of this process: nobody is left to hold the port, or to start a server again that cannot start.
        os.execve(sys.executable, [sys.executable, *server], environment)


def _published(tag: str, root: Path) -> Packaged:
    """Return a scorer that has an intact Bento."""
    packaged, events = find_packaged(tag, root), log_of(root)
    with nullcontext() if is_published(packaged, root) else Project(root).lock():
        bind(publish(packaged, root=root, chain_head=events.head), events)
    return packaged


def _planned(tag: str, packaged: Packaged, challenger: Packaged | None, root: Path) -> Served:
    """Return what the server is to do for a dataset: to follow the champion where the tag is the dataset's name."""
    statement, home = packaged.statement, bentoml_home(root)
    model, _ = _places_in(home, statement)
    name = statement.name
    served = Served(str(model), statement.id, extra=_extra(root / "data" / name))
    if challenger is not None and challenger.statement.name == name:
        served = replace(served, shadow=(str(challenger.folder), challenger.statement.id))
    if tag != name:
        return served
    stores = [kept_folder(root, name, "{version}"), home / "models" / name / "{version}-{statement}"]
    return replace(served, record=str(deployment_path(root, name)), stores=tuple(map(str, stores)))


def _extra(data: Path) -> Extra:
    """Return the columns of a dataset that are no features, as `assay ingest --append` expects them."""
    if not (data / "card.json").is_file():
        return ()
    card = read_card(data)
    roles = {"id": card.id_column, "label": card.label_column, "group": card.group_column, "time": card.time_column}
    return tuple((role, name) for role, name in roles.items() if name is not None)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host` and `port`."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(address[0]), port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ToolError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another --host or --port"
        ) from error


def _access(listening: socket.socket, host: str, root: Path) -> dict[str, str]:
    """Return the variables that say which tokens the server takes, and whether it needs one for every request.

    It does not where only this machine can ask, unless ASSAY_TOKENS is set: a proxy may stand before it.
    """
    path = tokens_path(root)
    if ip_address(listening.getsockname()[0]).is_loopback and not os.environ.get(TOKENS):
        return {TOKENS: str(path), TOKENS_OPTIONAL: "1"}
    if not read_tokens(path):
        raise ConfigError(
            f"{host} is not loopback, or ASSAY_TOKENS is set, and there is no token yet: `assay token new score` makes "
            "one, which clients then send"
        )
    return {TOKENS: str(path), TOKENS_OPTIONAL: ""}


def _environment(home: Path) -> dict[str, str]:
    return {**SWITCHES, **os.environ, "BENTOML_HOME": str(home)}


if __name__ == "__main__":
    build(Path(sys.argv[1]), *sys.argv[2:])
