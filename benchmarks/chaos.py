"""Commands that meet kills, full disks, clocks that jump and other people: what the next command makes of it.

Each fault meets a command in a copy of a small real project (Git, a DVC remote, a shared history, a seal). After it,
these have to hold, and each that does not is a loss:

- `assay audit verify` of the champion finds nothing that differs;
- the same command, given again, works, and leaves the files that it leaves where nothing happens (times aside); a
  `dvc repro` that meets one may leave DVC's lock or dvc.lock empty, at which DVC stops: any `assay` command that writes
  repairs them, and `assay gc` is given first;
- no entry of the event log that was there before the command, or at the fault, is missing, and its chain is whole;
- nothing is missing or changed in DVC's cache and remote, among the seals and the lists of rows of runs, but for what
  the command takes away where nothing happens;
- nothing temporary is left, neither Assay's nor DVC's.

Usage: python benchmarks/chaos.py [--seed N] [--most N] [COMMAND ...]     (as root: it mounts a small file system)
It goes on where it stopped, from .assay/chaos; commands that are named, by a part of their names, meet all again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.conftest import QUICK, SHARED, Checkout, make_checkout  # noqa: E402
from tests.killing import CLOCK, COUNT, FULL, KILL_ALL, KILL_ONE, READ_ONLY, fault  # noqa: E402

from assay.eventlog import EventLog  # noqa: E402
from assay.project.deployment import read_deployment  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks" / "chaos.md"
RESULTS = ROOT / ".assay" / "chaos"
NAME = "breast_cancer"
SETTINGS = (
    QUICK.replace("n_estimators: 25", "n_estimators: 5")
    .replace("[none, cadet]", "[none]")
    .replace("levels: [0, 0.1]", "levels: [0]")
)
KEPT = (
    *("data", "labels", "answers", "quarantine", "targets", "deployments", "scorers", "expectations", "work"),
    *("params.yaml", "cells.yaml", "data.dvc", "dvc.lock", "scored.csv"),
)
STORED = (".dvc/cache/files", "../store", "seals", ".assay/rows")
TEMPORARY = re.compile(r"\..+\.\d+-[a-z0-9_]{8}(\.part)?|.*\.part|.*\.tmp|.*\.temp")
TIMES = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(\+00:00|Z)?")
NOT_OURS = (".git", ".prefect", ".dvc/tmp", "src")


@dataclass(frozen=True)
class Case:
    """A command, what was done before it, the exit codes that it may have given again, and what is given first then."""

    name: str
    command: Callable[[Path], tuple[str, ...]]
    before: str = "done"
    again: tuple[int, ...] = (0,)
    first: tuple[str, ...] = ()
    prepare: Callable[[Checkout], None] = lambda _: None
    is_long: bool = False


@dataclass
class Row:
    """What one command met."""

    writes: int = 0
    tried: int = 0
    met: int = 0
    losses: list[str] = field(default_factory=list)


def champion(root: Path) -> str:
    """Return the tag of the champion."""
    deployed = read_deployment(root, NAME)
    assert deployed is not None
    return deployed.tag


def fixed(*command: str) -> Callable[[Path], tuple[str, ...]]:
    """Return a command that is the same in every project."""
    return lambda _: command


def edit_eps(project: Checkout) -> None:
    """Let the next run package another scorer."""
    path = project.root / "params.yaml"
    path.write_text(path.read_text().replace("eps: 0.05", "eps: 0.1").replace("n_estimators: 5", "n_estimators: 6"))


def answer_review(project: Checkout) -> None:
    """Write answers to the questions of a review."""
    project.assay("review", "--budget", "3")
    sheet = pd.read_csv(project.root / f".assay/reviews/{NAME}.csv", dtype=str)
    sheet.assign(answer="good").to_csv(project.root / "answers.csv", index=False)


VERBS = ("split", "contaminate", "validate", "train", "calibrate", "select", "evaluate", "package")
CASES = (
    Case("assay ingest (first)", fixed("assay", "ingest", "plant.csv", "--name", "plant", "--label", "ill"), "fresh"),
    Case("assay run", fixed("assay", "run"), "fresh", is_long=True),
    Case("dvc repro", fixed("dvc", "repro"), "fresh", first=("assay", "gc"), is_long=True),
    Case("assay run, settings changed", fixed("assay", "run"), prepare=edit_eps, is_long=True),
    Case("assay ingest (again)", fixed("assay", "ingest", "grown.csv", "--name", "plant", "--label", "ill")),
    Case(
        "assay ingest --append",
        fixed("assay", "ingest", "--append", "batch.csv", "--name", "plant", "--label", "ill"),
        again=(0, 2),
    ),
    Case("assay promote", lambda root: ("assay", "promote", champion(root), "--why", "again")),
    Case("assay label", fixed("assay", "label", "--budget", "5")),
    Case("assay audit quarantine", fixed("assay", "audit", "quarantine", "rows.csv", "--why", "w", "--dataset", NAME)),
    Case("assay review answers.csv", fixed("assay", "review", "answers.csv"), prepare=answer_review),
    Case("assay reweight", fixed("assay", "reweight", "target.csv")),
    Case("assay sync", fixed("assay", "sync")),
    Case("assay audit seal", fixed("assay", "audit", "seal", "--key", "../key")),
    Case("assay suite relearn", fixed("assay", "suite", "relearn", "--name", "plant")),
    Case("assay gc", fixed("assay", "gc")),
    Case("assay restore", fixed("assay", "restore"), prepare=lambda one: shutil.rmtree(one.root / "data")),
    Case("assay score", fixed("assay", "score", "target.csv", "--out", "scored.csv")),
    *(Case(f"assay stage {verb}", fixed("assay", "stage", verb), f"before {verb}") for verb in VERBS),
)


class Campaign:
    """The prepared projects, and the copies that meet faults.

    Parameters
    ----------
    folder : Path
        An empty one, on a fast file system.
    seed : int
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed, self.random = folder, seed, random.Random(seed)
        self.references: dict[str, list[dict[str, str]]] = {}
        self.stored: dict[str, set[tuple[str, str]]] = {}

    def prepare(self) -> None:
        """Make the projects that all copies are of: before the first run, before each stage, and after a run."""
        if (self.folder / "whole").exists():
            return
        project = make_checkout(self._make("fresh") / "project")
        project.params(SETTINGS)
        root = project.root
        for args in (("user.name", "Someone"), ("user.email", "someone@example.org")):
            self.git(root, "config", *args)
        self.git(root, "init", "-q", "--bare", "../remote.git")
        self.git(root, "remote", "add", "origin", "../remote.git")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root.parent / "key"], check=True)
        project.call("dvc", "remote", "add", "-d", "store", "../store")
        plant = pd.DataFrame({"a": range(90), "b": [i * i % 17 for i in range(90)], "ill": [0, 0, 1] * 30})
        plant[:60].to_csv(root / "plant.csv", index=False)
        plant.to_csv(root / "grown.csv", index=False)
        plant[60:].to_csv(root / "batch.csv", index=False)
        project.assay("restore")
        rows = pd.read_csv(root / f"data/{NAME}/rows.csv")
        rows[["row_id"]].head(3).to_csv(root / "rows.csv", index=False)
        self.commit(project, "before the first run")
        for number, verb in enumerate(VERBS):
            source = f"before {VERBS[number - 1]}" if number else "fresh"
            shutil.copytree(self.folder / source, self.folder / f"before {verb}", symlinks=True)
            staged = Checkout(self.folder / f"before {verb}" / "project")
            staged.assay("stage", VERBS[number - 1] if number else "code")
        shutil.copytree(root.parent, self.folder / "done", symlinks=True)
        done = Checkout(self.folder / "done" / "project")
        done.assay("ingest", "plant.csv", "--name", "plant", "--label", "ill")
        done.assay("run")
        scorer = json.loads((done.root / "data" / NAME / "card.json").read_text())
        features = pd.DataFrame(np.load(done.root / f"data/{NAME}/features.npy"))
        features.columns = [column if isinstance(column, str) else column["name"] for column in scorer["columns"]]
        features[:80].to_csv(done.root / "target.csv", index=False)
        done.assay("sync")
        done.assay("audit", "seal", "--key", "../key")
        self.commit(done, "after it")
        assert done.call("dvc", "push", "-q").returncode == 0
        (self.folder / "whole").touch()

    def _make(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name

    @staticmethod
    def git(root: Path, *arguments: str) -> None:
        """Call Git."""
        subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True)

    def commit(self, project: Checkout, message: str) -> None:
        """Commit and push everything."""
        self.git(project.root, "add", "--all")
        self.git(project.root, "commit", "-q", "-m", message)
        self.git(project.root, "push", "-q", "origin", "HEAD:main")

    @contextlib.contextmanager
    def copy(self, case: Case, place: Path | None = None) -> Iterator[Checkout]:
        """Give a copy of the project that a case begins with."""
        with tempfile.TemporaryDirectory(dir=place or self.folder, prefix="copy-") as name:
            source = self.folder / case.before
            subprocess.run(["cp", "-a", f"{source}/.", name], check=True)
            project = Checkout(Path(name) / "project")
            case.prepare(project)
            yield project

    def write_count(self, case: Case) -> int:
        """Return how many changes of files a command makes; keep what it leaves, done once and twice."""
        with self.copy(case) as project:
            counter, stored = project.root.parent / "count", contents(project.root, STORED).items()
            done = project.call(*case.command(project.root), **fault(COUNT, 0, counter, project.root))
            if done.returncode:
                raise SystemExit(f"{case.name}: {done.returncode}\n{done.stdout}{done.stderr}")
            self.references[case.name] = [contents(project.root)]
            again = project.call(*case.command(project.root))
            if again.returncode not in case.again:
                raise SystemExit(f"{case.name}, again: {again.returncode}\n{again.stdout}{again.stderr}")
            self.references[case.name].append(contents(project.root))
            self.stored[case.name] = stored & contents(project.root, STORED).items()
            return counter.stat().st_size

    def losses(self, case: Case, project: Checkout, logged: list[bytes]) -> list[str]:
        """Return what does not hold after a fault."""
        lost = []
        root = project.root
        is_read_first = self.random.random() < 0.3
        if case.first:
            project.call(*case.first)
        if is_read_first:
            lost += verified(project)
        again = project.call(*case.command(root))
        if again.returncode not in case.again:
            lost.append(f"given again, exit code {again.returncode}: {(again.stderr or again.stdout).strip()[-300:]}")
        if not is_read_first:
            lost += verified(project)
        if (now := lines(root))[: len(logged)] != logged:
            lost.append(f"{len(logged)} entries of the log were there, {len(now)} are")
        try:
            EventLog(root / ".assay/events.jsonl").check()
        except Exception as error:
            lost.append(str(error))
        if missing := self.stored[case.name] - contents(root, STORED).items():
            lost.append(f"missing or changed: {', '.join(sorted(name for name, _ in missing)[:4])}")
        if left := temporary(root):
            lost.append(f"left: {', '.join(left[:4])}")
        after = contents(root)
        if not lost and after not in self.references[case.name]:
            lost.append(f"differs from an undisturbed one: {differing(after, self.references[case.name][0])}")
        return lost

    def meet(self, case: Case, number: int, kind: str) -> tuple[bool, list[str]]:
        """Let a command meet a fault at a change; return whether it did, and what was lost."""
        with self.copy(case) as project:
            counter, logged = project.root.parent / "count", lines(project.root)
            command = case.command(project.root)
            met = project.call(*command, **fault(kind, number, counter, project.root))
            if "Traceback" in met.stderr:
                return True, [f"{met.stderr[-400:]}"]
            at_fault = lines(project.root)
            logged = at_fault if at_fault[: len(logged)] == logged else logged
            return met.returncode != 0, self.losses(case, project, logged)


def gone(project: Checkout, *names: str) -> Callable[[], None]:
    """Take folders away; return what brings them back, beside what was written meanwhile."""
    places = [project.root / name for name in names if (project.root / name).exists()]
    for place in places:
        place.rename(place.with_name(f"{place.name}.away"))

    def back() -> None:
        for place in places:
            away = place.with_name(f"{place.name}.away")
            subprocess.run(["cp", "-an", f"{away}/.", str(place)], check=True)
            shutil.rmtree(away)

    for place in places:
        place.mkdir() if place.name == "cache" else None
    return back


def sentence(done: subprocess.CompletedProcess[str], codes: tuple[int, ...]) -> list[str]:
    """Return what is wrong with the end of a command that met a fault: it works, or says why it does not."""
    if done.returncode in codes:
        return []
    said = [line for line in done.stderr.splitlines() if line.strip()]
    is_one = any(line.startswith(("assay: ", "ERROR: ")) for line in said) or len(said) == 1
    return [] if is_one and "Traceback" not in done.stderr else [f"exit code {done.returncode}: {done.stderr[-300:]}"]


def meet_elsewhere(campaign: Campaign, case: Case, what: str) -> tuple[bool, list[str]]:
    """Let a command meet what is no kill; return whether it was refused, and what was lost."""
    space = tempfile.mkdtemp(dir=campaign.folder, prefix="space-") if what == "full" else None
    if space is not None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "none", space], check=True)
    try:
        with campaign.copy(case, None if space is None else Path(space)) as project:
            root, command = project.root, case.command(project.root)
            logged = lines(root)
            if what == "full":
                used = int(subprocess.run(["du", "-sk", space], capture_output=True, check=True).stdout.split()[0])
                more = campaign.random.choice((16, 64, 256, 700))
                subprocess.run(["mount", "-o", f"remount,size={used + more}k", space], check=True)
                done = project.call(*command)
                subprocess.run(["mount", "-o", "remount,size=1g", space], check=True)
            elif what == "read-only":
                subprocess.run(["chmod", "-R", "a-w", root], check=True)
                done = project.call(*command, **fault(READ_ONLY, 0, root.parent / "count", root))
                subprocess.run(["chmod", "-R", "u+w", root], check=True)
            elif what == "second process":
                other = threading.Thread(target=project.call, args=command)
                other.start()
                done = project.call(*command)
                other.join()
                if done.returncode and "another assay command is working" in done.stderr:
                    return True, campaign.losses(case, project, logged)
                if done.returncode == 0 or done.returncode in case.again:
                    return False, campaign.losses(case, project, logged)
            elif what.startswith("clock"):
                seconds = 366 * 86_400 * (1 if what.endswith("ahead") else -1)
                done = project.call(*command, **fault(CLOCK, seconds, root.parent / "count", root))
            else:
                back = gone(project, *((".dvc/cache",) if what == "cache gone" else ("../remote.git", "../store")))
                done = project.call(*command)
                wrong = verified(project)
                back()
                return done.returncode != 0, wrong + sentence(done, (0,)) + campaign.losses(case, project, logged)
            return done.returncode != 0, sentence(done, (0,)) + campaign.losses(case, project, logged)
    finally:
        if space is not None:
            subprocess.run(["umount", "-l", space], check=True)


KILLED = "killed"  # or a full disk at a write
MEANS = {
    "full": "a file system of its own with 16 to 700 KiB left",
    "read-only": "a project in which nothing may be written",
    "second process": "the same command twice at once",
    "clock ahead": "a clock that is a year ahead, and right again after it",
    "clock back": "a clock that is a year back, and right again after it",
    "cache gone": "DVC's cache taken away, and brought back after it",
    "remotes gone": "the Git and DVC remotes taken away, and brought back after it",
}
TEXT = """# Chaos

{doc}

**{n_lost} losses in {n} faults**, seed {seed}. `make chaos`, about half an hour on an idle machine.
{lost}
## Kills and full disks at writes

A write is what is about to create, replace, rename or remove a file or folder of the project, or to start a process,
by Assay or by DVC under it. Of all writes of a command some are drawn, evenly spread. Two in three are met by SIGKILL
of all processes of the command, one in three by SIGKILL of the one that writes; a file that was to be opened is left
empty. At every third place the disk is also full, from this write to the end of the command.

| command | writes | faults | ended by it | losses |
|---|---:|---:|---:|---:|
{faults}

## Other faults, each at every command

| fault | commands | refused, in one sentence | losses |
|---|---:|---:|---:|
{rest}

What it brought to light, each mended: a kill while DVC fills `data/`, which the next command called tampering; data
that were half-filled, and `assay audit verify` called others; temporary files of a killed DVC in its cache; a dvc.lock
that `dvc repro` left empty at a full disk; a traceback and missing pages where Data Docs met one.

Not covered: a loss of power, which may lose what the system has not written to the disk yet (files are synced before
they get their names, folders are not); kills inside a single write of a library in C, as of DuckDB or SQLite; a second
machine at once.
"""


def lines(root: Path) -> list[bytes]:
    """Return the whole lines of the event log."""
    path = root / ".assay/events.jsonl"
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1].splitlines()


def verified(project: Checkout) -> list[str]:
    """Return what `assay audit verify` says that differs."""
    if read_deployment(project.root, NAME) is None:
        return []
    done = project.call("assay", "audit", "verify", NAME, "--json")
    try:
        findings = json.loads(done.stdout)["findings"]
    except ValueError:
        return [f"verify, exit code {done.returncode}: {done.stderr.strip()[-300:]}"]
    return [f"verify: {each}"[:300] for each in findings if each["state"] == "differs"]


def temporary(root: Path) -> list[str]:
    """Return the temporary files and folders in a project."""
    names = []
    for folder, folders, files in os.walk(root):
        within = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if (within / name).as_posix() not in NOT_OURS]
        names += [(within / name).as_posix() for name in (*folders, *files) if TEMPORARY.fullmatch(name)]
    names += [path.relative_to(root).as_posix() for path in (root / ".assay/pending").glob("*")]
    return names


def contents(root: Path, names: tuple[str, ...] = KEPT) -> dict[str, str]:
    """Return the hash of each file that a project keeps, without times."""
    paths = [path for name in names for path in ((root / name).rglob("*") if (root / name).is_dir() else [root / name])]
    hashes = {}
    for path in paths:
        if path.is_file():
            content = TIMES.sub(b"TIME", path.read_bytes())
            hashes[path.relative_to(root).as_posix()] = str(hash(content))
    return hashes


def differing(first: dict[str, str], second: dict[str, str]) -> str:
    """Return the names of the files that differ."""
    return ", ".join(sorted(name for name in {*first, *second} if first.get(name) != second.get(name))[:6])


def drawn(n: int, most: int, generator: random.Random) -> list[int]:
    """Return all numbers up to n, or so many of them, evenly spread, each with a random place in its share."""
    if n <= most:
        return list(range(1, n + 1))
    return sorted({1 + int((i + generator.random()) * n / most) for i in range(most)})


def kills(campaign: Campaign, most: int, case: Case) -> dict[str, Row]:
    """Let a command meet kills and full disks at its changes."""
    row = Row(writes=campaign.write_count(case))
    for number in drawn(row.writes, most // 2 if case.is_long else most, campaign.random):
        for kind in (campaign.random.choice((KILL_ALL, KILL_ALL, KILL_ONE)), *((FULL,) if number % 3 == 0 else ())):
            met, lost = campaign.meet(case, number, kind)
            row.tried, row.met = row.tried + 1, row.met + met
            row.losses += [f"{kind} at {number}: {each}" for each in lost]
    return {KILLED: row}


def situations(campaign: Campaign, times: int, case: Case) -> dict[str, Row]:
    """Let a command meet what is no kill."""
    rows = {what: Row() for what in MEANS}
    if case.name not in campaign.references:
        campaign.write_count(case)
    for what, row in rows.items():
        for _ in range(times if what == "full" else 1):
            refused, lost = meet_elsewhere(campaign, case, what)
            row.tried, row.met = row.tried + 1, row.met + refused
            row.losses += lost
    return rows


def results(campaign: Campaign, most: int, named: list[str]) -> dict[str, dict[str, Row]]:
    """Return what each command met, by its name and the kind of fault; what was measured before is read."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    every = {}
    parts: dict[str, Callable[[Case], dict[str, Row]]] = {
        KILLED: lambda case: kills(campaign, most, case),
        "full": lambda case: situations(campaign, 3, case),
    }
    for case in CASES:
        path = RESULTS / f"{campaign.seed}-{most}-{case.name.replace(' ', '-')}.json"
        is_read = path.is_file() and not any(name in case.name for name in named)
        rows = {kind: Row(**row) for kind, row in json.loads(path.read_text()).items()} if is_read else {}
        for first, measure in parts.items():
            if first in rows:
                continue
            began = time.monotonic()
            campaign.prepare()
            campaign.random.seed(f"{campaign.seed} {case.name} {first}")
            measured = measure(case)
            rows |= measured
            path.write_text(json.dumps({kind: asdict(row) for kind, row in rows.items()}))
            losses = [f"  {kind}: {each}" for kind, row in measured.items() for each in row.losses]
            n, seconds = sum(row.tried for row in measured.values()), time.monotonic() - began
            print("\n".join([f"{case.name}: {n} faults, {len(losses)} losses, {seconds:.0f} s", *losses]), flush=True)
        every[case.name] = rows
    return every


def united(rows: Iterable[Row]) -> Row:
    """Return all rows as one."""
    whole = Row()
    for row in rows:
        whole.tried, whole.met, whole.losses = whole.tried + row.tried, whole.met + row.met, whole.losses + row.losses
    return whole


def page(every: dict[str, dict[str, Row]], seed: int) -> str:
    """Return the page: losses first."""
    faults = {name: rows[KILLED] for name, rows in every.items()}
    rest = {what: united(rows[what] for rows in every.values()) for what in MEANS}
    lost = [f"- {name}: {each}" for name, rows in every.items() for row in rows.values() for each in row.losses]
    return TEXT.format(
        doc=(__doc__ or "").partition("Usage:")[0].strip(),
        n=sum(row.tried for rows in every.values() for row in rows.values()),
        n_lost=len(lost),
        lost="\n".join(["", *lost, ""]) if lost else "",
        seed=seed,
        faults="\n".join(
            f"| `{name}` | {row.writes} | {row.tried} | {row.met} | {len(row.losses)} |" for name, row in faults.items()
        ),
        rest="\n".join(
            f"| {MEANS[what]} | {row.tried} | {row.met} | {len(row.losses)} |" for what, row in rest.items()
        ),
    )


def main() -> None:
    """Run the campaign and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=14, help="writes of a command that meet faults; a third twice")
    parser.add_argument("cases", nargs="*", help="those that meet all faults again")
    options = parser.parse_args()
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="chaos-") as folder:
        os.environ[SHARED] = folder
        (Path(folder) / "projects").mkdir()
        campaign = Campaign(Path(folder) / "projects", options.seed)
        PAGE.write_text(page(results(campaign, options.most, options.cases), options.seed))


if __name__ == "__main__":
    main()
