"""Signing seals with an SSH key, and checking them: `ssh-keygen -Y sign` and `verify`, in the namespace assay."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from assay.audit.chain import Chain
from assay.audit.findings import NOT_HERE, UNCHECKED, CheckResult
from assay.errors import ConfigError, DataError, ScorerError, ToolError
from assay.eventlog import START
from assay.hashing import hash_bytes
from assay.parts import canonical_json, is_there
from assay.project import versioning
from assay.project.accounts import accounts_of, machine_id, make_machine_id
from assay.project.anchors import admitted
from assay.project.deployment import read_deployments
from assay.project.layout import Project
from assay.project.pending import Change
from assay.project.scorers import check_scorer, find_packaged
from assay.project.seals import SEAL_SCHEMA, Seal, read_seals, seals_folder

SEAL_EVENT = "sealed"
_NAMESPACE, _SIGNERS = "assay", "allowed_signers"
_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_TOOL = "ssh-keygen, which signs and checks seals, is not installed: install OpenSSH and repeat the command"
_GOOD = re.compile(r'Good "assay" signature for (?P<who>.+) with (?P<key>\S+ key \S+)')


def signers_path(root: Path) -> Path:
    """Return the file of the keys that may sign for a project."""
    return seals_folder(root) / _SIGNERS


def seal_project(project: Project, key: Path | None = None) -> tuple[Seal, str]:
    """Sign the head of this machine's event log and the statements of the deployed scorers.

    A project without ``allowed_signers`` gets that file, with this key alone. Call it under the project's lock.

    Parameters
    ----------
    key : Path, optional
        A private key, or a public one whose private key an SSH agent holds; by default ``user.signingkey`` of Git, or
        one of the usual ones in ``~/.ssh``.

    Returns
    -------
    Seal
    str
        Who signed it, and with which key.

    Raises
    ------
    ConfigError
        There is no such key, or it is not in ``allowed_signers``.
    DataError
        There is nothing to seal.
    TamperedError
        The log or a scorer was changed.
    ToolError
        ssh-keygen is not installed, or fails.
    """
    root, log = project.root, project.events
    log.check()
    if (head := log.head) == START:
        raise DataError("there is nothing to seal: nothing was run or ingested here")
    key = _find_key(root, key)
    machine, now = machine_id(root) or make_machine_id(root), datetime.now(UTC).isoformat(timespec="seconds")
    parts = {"schema": SEAL_SCHEMA, "machine": machine, "name": platform.node(), "entries": log.heads[head]}
    content = canonical_json({**parts, "head": head, "scorers": _deployed(root), "time": now}).encode()
    path, allowed = seals_folder(root) / f"{now[:19].replace(':', '')}-{head[:12]}.json", signers_path(root)
    with tempfile.TemporaryDirectory(prefix="assay-seal-") as folder:
        signed = Path(folder) / "seal"
        signed.write_bytes(content)
        _keygen("-Y", "sign", "-q", "-f", str(key), "-n", _NAMESPACE, str(signed))
        signature = signed.with_name("seal.sig").read_bytes()
        signers = allowed.read_bytes() if is_there(allowed) else _line_of(root, key)
        used = Path(folder) / _SIGNERS
        used.write_bytes(signers)
        if (who := _signer(content, signed.with_name("seal.sig"), used, now)) is None:
            line = _line_of(root, key).decode().strip()
            raise ConfigError(f"the key {key} is not in {allowed}; nothing was sealed. To let it sign, add: {line}")
    with Change(root) as change:
        path.parent.mkdir(exist_ok=True)
        change.write(path, content)
        change.write(path.with_name(f"{path.name}.sig"), signature)
        if not is_there(allowed):
            change.write(allowed, signers)
        change.commit(SEAL_EVENT, {"seal": path.name, "content": hash_bytes(content), "by": who})
    return next(seal for seal in read_seals(root) if seal.path == path), who


def _deployed(root: Path) -> dict[str, str]:
    """Return the SHA-256 of the statement of every deployed scorer, which is checked, by its tag."""
    deployments, unreadable = read_deployments(root)
    if unreadable:
        raise ScorerError(f"nothing was sealed: {next(iter(unreadable.values()))}")
    scorers = {}
    for each in deployments.values():
        packaged = find_packaged(each.tag + (f"-{each.statement}" if each.statement else ""), root)
        check_scorer(packaged.folder)
        scorers[packaged.statement.tag] = packaged.statement.hash
    return scorers


def _find_key(root: Path, key: Path | None) -> Path:
    if key is None:
        of_git = (versioning.git(root, "config", "--type=path", "user.signingkey") or b"").decode().strip()
        usual = [Path(of_git)] if of_git else []
        usual += [Path.home() / ".ssh" / name for name in _KEYS]
        key = next((path for path in usual if path.is_file()), None)
        if key is None:
            raise ConfigError(f"there is no SSH key in {Path.home() / '.ssh'}; give one with --key FILE")
    if not key.is_file():
        raise ConfigError(f"there is no key {key}; `ssh-keygen -t ed25519 -f FILE` makes one")
    return key


def _line_of(root: Path, key: Path) -> bytes:
    """Return the line of ``allowed_signers`` that lets a key sign for the person whom Git knows here."""
    public = key if key.suffix == ".pub" else key.with_name(f"{key.name}.pub")
    text = public.read_text(encoding="utf-8") if public.is_file() else _keygen("-y", "-f", str(key))
    address = re.search(r"<([^<>\s,]+)>$", versioning.person(root))
    who = address.group(1) if address else f"someone@{platform.node()}"
    return f'{who} namespaces="{_NAMESPACE}" {" ".join(text.split()[:2])}\n'.encode()


def _keygen(*arguments: str, message: bytes | None = None) -> str:
    """Run ssh-keygen, which may ask for a passphrase, and return what it printed."""
    if shutil.which("ssh-keygen") is None:
        raise ToolError(_TOOL)
    # It asks at the terminal; where there is none, it would wait for what this command may get as input.
    process = subprocess.run(["ssh-keygen", *arguments], input=message or b"", capture_output=True, check=False)
    output = (process.stdout + process.stderr).decode(errors="replace").strip()
    if process.returncode != 0:
        raise ToolError(f"ssh-keygen {' '.join(arguments[:2])} failed: {' '.join(output.split())}")
    return process.stdout.decode(errors="replace")


def _signer(content: bytes, signature: Path, signers: Path, time: str) -> str | None:
    """Return who signed a content and with which key; None where no key that counts has.

    A key counts that was valid at the stated time, so that one may expire and its seals stay, or is valid now.
    """
    at = f"{datetime.fromisoformat(time).astimezone():%Y%m%d%H%M%S}"
    for options in ((f"-Overify-time={at}",), ()):
        try:
            listed = _keygen("-Y", "find-principals", *options, "-s", str(signature), "-f", str(signers))
            who = listed.splitlines()[0].strip()
            verify = ("-Y", "verify", *options, "-f", str(signers), "-I", who, "-n", _NAMESPACE, "-s", str(signature))
            said = _GOOD.search(_keygen(*verify, message=content))
        except (ToolError, IndexError):
            continue
        if said is not None:
            return f"{said['who']} ({said['key']})"
    return None


@dataclass
class JudgedSeals:
    """What the seals of a project say, by message, and the newest entry that a valid one covers."""

    covers: str = ""
    problems: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    valid: list[tuple[Seal, str]] = field(default_factory=list)


def judge_seals(chain: Chain, judged: JudgedSeals, signers: Path | None = None) -> CheckResult:
    """Check every seal: its signature, and that the chain that it is of still has the sealed entry.

    Parameters
    ----------
    judged : JudgedSeals
        Gets what is said.
    signers : Path, optional
        The keys that count; by default those in the project, which whoever may write to it may change.

    Raises
    ------
    TamperedError
        A file is not a seal.
    """
    root = chain.project.root
    seals = read_seals(root)
    names = {seal.path.name for seal in seals}
    said = [event["seal"] for event in chain.events if event["event"] == SEAL_EVENT]
    listed = versioning.git(root, "ls-tree", "--name-only", "HEAD", f"{seals_folder(root).name}/") or b""
    said += [Path(line).name for line in listed.decode().splitlines() if line.endswith(".json")]
    missing = [name for name in dict.fromkeys(said) if name not in names]
    judged.lacking += [f"the seal {name} is missing; restore it from Git" for name in missing]
    if seals and shutil.which("ssh-keygen") is None:
        judged.unchecked.append(_TOOL)
    else:
        _judge(chain, judged, seals, signers_path(root) if signers is None else signers)
    if seals and signers is None and (name := _uncommitted_signers(root)):
        judged.unchecked.append(name)
    return _concluded(chain, judged)


def _judge(chain: Chain, judged: JudgedSeals, seals: list[Seal], signers: Path) -> None:
    accounts = accounts_of(chain.project.root)
    heads = [account.log.heads for account in accounts]
    absent = admitted(accounts[0].log)
    for seal in seals:
        is_signed = seal.signature.is_file()
        who = _signer(seal.path.read_bytes(), seal.signature, signers, seal.time) if is_signed else None
        of = f"entry {seal.entries} of {seal.name}"
        if who is None:
            judged.problems.append(f"{seal.path.name} is signed by no key in {signers}")
        elif any(known.get(seal.head) == seal.entries for known in heads):
            judged.valid.append((seal, who))
        elif seal.head not in absent and seal.machine in {account.machine for account in accounts}:
            judged.problems.append(f"{of} is not the one that {who} sealed at {seal.time}: the log was rewritten")
        else:
            judged.lacking.append(f"the history up to {of}, which {who} sealed, is not here (`assay sync`)")


def _uncommitted_signers(root: Path) -> str:
    path = signers_path(root)
    committed = versioning.git(root, "show", f"HEAD:./{path.relative_to(root).as_posix()}")
    if committed is None or (is_there(path) and path.read_bytes() == committed):
        return ""
    return f"{path.relative_to(root)} is not that of the present commit: keys were added or removed"


def _concluded(chain: Chain, judged: JudgedSeals) -> CheckResult:
    said = []
    if judged.valid:
        seal, who = judged.valid[-1]
        own = [each for each in judged.valid if each[0].scorers.get(chain.statement.tag) == chain.statement.hash]
        judged.covers = f"entry {seal.entries} of {seal.name}"
        said.append(f"{len(judged.valid)} valid, the newest by {who} at {seal.time}, up to {judged.covers}")
        its_own = f"this statement by {own[-1][1]} at {own[-1][0].time}" if own else "this statement is in none"
        said.append(its_own)
    states = {"differs": judged.problems, NOT_HERE: judged.lacking, UNCHECKED: judged.unchecked}
    state = next((state for state, messages in states.items() if messages), "ok")
    messages = [message for each in states.values() for message in each]
    return state, "; ".join([*messages, *said]) or "none; `assay audit seal` signs"
