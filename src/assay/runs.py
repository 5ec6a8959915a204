"""A run from outside the stages: what must hold before it, what is left to do after it, what it says."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from assay import console, stages, versioning
from assay.data.ingest import restore
from assay.errors import StageError, ToolError
from assay.lineage.freshness import Outcome, is_fresh
from assay.project import STAGES, Project
from assay.report import leaderboard, write_report
from assay.serving.deployment import keep, promote, read_deployment


@dataclass(frozen=True, slots=True)
class Result:
    """What a run ends with; `to_json` is what ``assay run --json`` prints."""

    dataset: str
    eps: float
    evidence: str
    candidates: list[dict[str, Any]]
    scorer: str | None
    champion: str | None
    verdict: str
    report: str
    record: str
    folder: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def prepare(project: Project) -> None:
    """Check what must hold before the first stage.

    Raises
    ------
    ConfigError
        params.yaml cannot be used.
    TamperedError
        ``data/`` differs from data.dvc, or a stage's outputs from their record, or the event log is broken.
    StageError
        The dataset has not been ingested.
    """
    project.config  # noqa: B018  (read first: DVC says less of a broken file)
    restore(project)
    if not project.data.is_dir():
        have = ", ".join(sorted(p.name for p in (project.root / "data").glob("*"))) or "none"
        raise StageError(
            f"there is no dataset {project.dataset!r} in data/ (there are: {have}); bring it in with `assay ingest`"
        )
    project.events.check()


def check_choices(project: Project) -> None:
    """Raise `ConfigError` at once for a detector or adapter that would only be refused when its turn comes."""
    from assay.calibration.adapters import make_adapter
    from assay.detectors.registry import make_detector

    train = project.config.sections["train"]
    for detector in project.config.detectors:
        make_detector(detector.name, detector.params, seed=train["seed"], device=train["device"])
    for adapter in project.config.adapters:
        make_adapter(adapter.name, adapter.params)


def stale_stages(project: Project) -> list[str]:
    """Return the stages that a run would have to run, checking the bytes of all finished ones.

    From the first stale stage on every later one is stale too, since each reads what the one before it wrote.
    """
    fresh = [is_fresh(project, name) for name in STAGES]
    return list(STAGES[fresh.index(False) :]) if False in fresh else []


def execute(project: Project, stage: str) -> Outcome:
    """Run one stage with its progress on screen."""
    with console.stage_progress(stage) as progress:
        outcome = stages.run(project, stage, progress)
    console.say(console.stage_line(outcome))
    return outcome


def open_run(project: Project, driver: str) -> str:
    """Log that a run begins; returns its id."""
    run = uuid.uuid4().hex
    project.events.append(
        "run-started",
        run=run,
        driver=driver,
        dataset=project.dataset,
        commit=versioning.head_commit(project.root),
    )
    return run


def close_run(project: Project, run: str, done: list[str], error: BaseException | None) -> None:
    """Tell DVC of the stages that ran or were fresh, and log how the run ended."""
    try:
        versioning.commit(project.root, done)
    except ToolError as failed:
        if error is None:
            raise
        console.say(f"dvc.lock was not brought up to date: {failed}")
    state = "completed" if error is None else "failed"
    project.events.append("run-ended", run=run, state=state, reason="" if error is None else str(error), stages=done)


def deliver(project: Project) -> Result:
    """Publish the scorer, decide who is champion, write the report, and say where everything is."""
    from assay.evaluation.champion import judge
    from assay.serving.packaging import publish

    (folder,) = (p for p in project.folder("package").iterdir() if p.is_dir())
    published = publish(folder, root=project.root, chain_head=project.events.head)
    current = read_deployment(project.root, project.dataset)
    if current is not None and current.version == folder.name:
        verdict = f"{current.tag} is the champion already"
    else:
        selection = project.folder("split") / "selection"
        seed = project.config.sections["select"]["seed"]
        if current is None:
            wins, verdict = True, "the first valid scorer of this dataset"
        else:
            from assay.serving.scorer import find_scorer

            found = judge(folder, find_scorer(current.tag, project.root), selection, eps=project.config.eps, seed=seed)
            wins, verdict = found.promote, found.reason
        name, bento = project.dataset, published.bento_tag
        if wins:
            promote(project.root, name, folder.name, bento=bento, reason=verdict, events=project.events)
        else:
            keep(project.root, name, folder.name, reason=verdict, events=project.events)
    return summarise(project, verdict)


def summarise(project: Project, verdict: str) -> Result:
    """Collect what a finished run says, and draw its report."""
    from assay.pipeline import read_evaluation

    folders = [p for p in project.folder("package").glob("*") if p.is_dir()]
    deployment = read_deployment(project.root, project.dataset)
    evaluation = read_evaluation(project.folder("evaluate"))
    return Result(
        dataset=project.dataset,
        eps=project.config.eps,
        evidence=evaluation["evidence"],
        candidates=leaderboard(project),
        scorer=f"{project.dataset}:{folders[0].name}" if folders else None,
        champion=None if deployment is None else deployment.tag,
        verdict=verdict,
        report=str(write_report(project).relative_to(project.root)),
        record=str(
            (project.folder("package") if folders else project.folder("select")).relative_to(project.root)
            / "record.json"
        ),
        folder=str(folders[0].relative_to(project.root)) if folders else None,
    )


def show(result: Result) -> None:
    """Print the table of candidates, the scorer, its report and record, and the command that serves it."""
    title = f"{result.dataset}: test rows, trained without injected rows"
    console.paper.print(
        console.candidates_table(result.candidates, eps=result.eps, evidence=result.evidence, title=title)
    )
    for row in result.candidates:
        if row["reason"]:
            console.paper.print(f"not valid: {row['detector']}+{row['adapter']}: {row['reason']}", markup=False)
    lines = [
        ("scorer", result.scorer or "none"),
        ("champion", result.champion or "none"),
        ("", result.verdict),
    ]
    lines += [("folder", result.folder or "none"), ("report", result.report), ("lineage", result.record)]
    if result.champion:
        lines.append(("serve", f"assay serve {result.champion}"))
    for name, text in lines:
        console.paper.print(f"{name:<9}{text}", markup=False)


def refresh(project: Project) -> Result:
    """End a run in which every stage was fresh: mend what is missing around them, and say the same again."""
    if set(versioning.status(project.root)) - {versioning.DATA}:
        versioning.commit(project.root, STAGES)
    console.say("nothing changed: every stage is fresh")
    return deliver(project)
