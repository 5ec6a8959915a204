"""The steps of a run around its stages: checks before them, and the output after them."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from assay import console
from assay.errors import ConfigError, ScorerError, ToolError
from assay.hashing import RECORD
from assay.ledger.history import KILLED, SIGNALLED
from assay.ledger.rows import FIRST, keep_rows
from assay.ledger.sharing import require_as_shared
from assay.openlineage import client as openlineage
from assay.parts import read_json
from assay.pipeline.progress import silent
from assay.project import versioning
from assay.project.cells import refresh_cells, require_cells, retire_cells
from assay.project.deployed import bring_back
from assay.project.deployment import read_deployment
from assay.project.formats import require_current
from assay.project.freshness import Outcome, is_fresh, run_verb
from assay.project.ingest import restore
from assay.project.installed import is_network, refresh_code, refresh_lock, require_own_code
from assay.project.layout import Project
from assay.project.scorers import scorer_folders
from assay.project.work import do_elsewhere, do_here
from assay.runs.artifacts import stage_artifact
from assay.runs.choice import choice_sentence, would_help
from assay.runs.delivery import deliver as deliver  # flows call it by this module
from assay.runs.report import (
    Standing,
    candidates_table,
    contradictions,
    gate_comparison,
    held_rows,
    leaderboard,
    left_out_levels,
    write_report,
)
from assay.scorer.statement import sealed_tag

CODE_STAGE = "code"
_KEEPING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run; ``assay run --json`` prints its `to_json`."""

    dataset: str
    eps: float
    evidence: str
    unit: str
    candidates: tuple[Standing, ...]
    scorer: str | None
    statement: str | None
    champion: str | None
    champion_statement: str | None
    verdict: str
    report: str
    record: str
    folder: str | None
    guarantee: str = ""
    band: str = ""
    choice: str = ""
    helps: tuple[str, ...] = ()
    limits: str = ""
    n_uncalibrated: int = 0
    left_out: str = ""
    held: str = ""
    contradictions: str = ""
    gate: dict[str, Any] | None = None
    uncommitted: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Result:
        """Return the result that `to_json` described."""
        candidates = tuple(Standing(**row) for row in content["candidates"])
        return cls(
            **{
                **content,
                "candidates": candidates,
                "uncommitted": tuple(content["uncommitted"]),
                "helps": tuple(content["helps"]),
            }
        )


def prepare(project: Project, dataset: str | None = None) -> None:
    """Check the project before the first stage, and log the end of a run that was killed.

    Parameters
    ----------
    project : Project
    dataset : str, optional
        Becomes the current one in params.yaml.

    Raises
    ------
    ConfigError
        params.yaml or dvc.yaml cannot be used, or the project is of an earlier format.
    TamperedError
        ``data/`` differs from data.dvc, or a stage's outputs from their record, or the event log is broken.
    StageError
        The dataset has not been ingested.
    ScorerError
        The dataset's deployment record cannot be read.
    """
    require_current(project.root)
    refresh_cells(project)  # reads the settings first: the error messages of DVC on a broken file say less
    restore(project)
    if dataset is not None:
        project.use_dataset(dataset)
        refresh_cells(project)
    project.require_dataset(project.dataset)
    read_deployment(project.root, project.dataset)  # which is needed at the end
    try:
        bring_back(project.root, [project.dataset])
    except ScorerError as error:
        console.say(str(error))
    require_own_code(project)
    refresh_lock(project)
    project.events.check()
    require_as_shared(project.root)
    end_interrupted(project)
    retire_cells(project)


def end_interrupted(project: Project) -> None:
    """Log the end of a run that was killed before it could; call it under the project's lock.

    A run holds that lock from its beginning to its end, so a run that is open while another command holds the lock is
    dead. Without this event the ledger would count the stages of that command as stages of the run.
    """
    newest = next((e for e in reversed(project.events) if e["event"] in ("run-started", "run-ended")), None)
    if newest is not None and newest["event"] == "run-started":
        project.events.append("run-ended", run=newest["run"], state="interrupted", reason=KILLED, stages=[])


def check_choices(project: Project) -> None:
    """Raise `ConfigError` early for choices, and for missing categories, that a later stage would refuse."""
    from assay.calibration.adapters.registry import make_adapter
    from assay.data.card import read_card
    from assay.detectors.registry import DETECTORS, make_detector
    from assay.pipeline.calibrating import NO_CATEGORIES

    if project.config.sections["calibrate"]["within"] == "category" and read_card(project.data).category_column is None:
        raise ConfigError(NO_CATEGORIES)
    train = project.config.sections["train"]
    for detector in project.config.detectors:
        if detector.label in DETECTORS and detector.name != detector.label:
            kind, label = detector.name, detector.label
            raise ConfigError(
                f"params.yaml: detectors: {label} has {kind} as its detector and the name of another one; use another "
                f"label or, for {kind} inside {label}, `{label}: {{detector: {{{label}: {{detector: {kind}}}}}}}`"
            )
        make_detector(detector.name, detector.params, seed=train["seed"], device=train["device"])
    for adapter in project.config.adapters:
        make_adapter(adapter.name, adapter.params)


def write_code(project: Project) -> None:
    """Do the work of the stage ``code``, which DVC runs before all others: the hash of the code of every stage.

    Raises
    ------
    ConfigError
        params.yaml cannot be used.
    StageError
        cells.yaml was not up to date with params.yaml.
    """
    for name in project.config.datasets:
        project.require_dataset(name)
    check_choices(project)
    refresh_lock(project)
    require_cells(project)
    refresh_code(project)


def stale_stages(project: Project) -> list[str]:
    """Return the stages that are not fresh now, checking the bytes of all finished ones."""
    return [name for name in project.stages if not is_fresh(project, name)]


def execute(project: Project, stage: str, *, beside_others: bool = False) -> Outcome:
    """Run one stage with its progress on screen; first keep the roles of its rows for the ledger.

    One that runs beside others, in a thread of its own, works in a process of its own and shows no progress.
    """
    if project.stage(stage).verb not in FIRST:
        with _KEEPING:
            keep_rows(project.root, project.events, project.dataset)
    bar = nullcontext(silent) if beside_others else console.stage_progress(project.stage(stage).title)
    with (
        bar as on_screen,
        stage_artifact(project, stage) as in_prefect,
        openlineage.stage_events(project, stage) as begin,
    ):

        def progress(task: str, share: float) -> None:
            on_screen(task, share)
            in_prefect(task, share)

        outcome = run_verb(project, stage, progress, begin, do=do_elsewhere if beside_others else do_here)
    console.say(stage_line(outcome))
    return outcome


def quick_first(project: Project, stages: list[str]) -> list[str]:
    """Return the stages of one verb, those of networks at the end: quick ones do not wait for their levels."""
    return sorted(stages, key=lambda name: is_network(project, project.stage(name).detector))


def open_run(project: Project, driver: str) -> str:
    """Log that a run begins, and write the hashes of its code for DVC; return the run's id."""
    refresh_code(project)
    run = openlineage.new_run_id()
    project.events.append(
        "run-started",
        run=run,
        driver=driver,
        dataset=project.dataset,
        commit=versioning.head_commit(project.root),
    )
    openlineage.emit_run_started(project, run)
    return run


def close_run(project: Project, run: str, finished: list[str], error: BaseException | None) -> None:
    """Record the finished stages in dvc.lock, and log how the run ended.

    An interrupted run has to end soon, so it leaves dvc.lock to the next run.
    """
    interrupted = error is not None and not isinstance(error, Exception)
    try:
        if not interrupted and _settings_changed(project):
            console.say("params.yaml changed during the run, which kept to what it had read; dvc.lock was not updated")
        elif not interrupted:
            in_order = [name for name in project.stages if name in finished]
            versioning.commit(project.root, [CODE_STAGE, *in_order] if finished else [])
    except ToolError as failed:
        if error is None:
            openlineage.emit_run_ended(project, run, failed)
            raise
        console.say(f"dvc.lock was not brought up to date: {failed}")
    state = "completed" if error is None else "cancelled" if interrupted else "failed"
    reason = SIGNALLED if interrupted else "" if error is None else str(error)
    project.events.append("run-ended", run=run, state=state, reason=reason, stages=finished)
    openlineage.emit_run_ended(project, run, error)


def _settings_changed(project: Project) -> bool:
    """Return whether params.yaml holds other settings now than a run has read; DVC would record those of now."""
    try:
        return project.as_it_is().raw_params != project.raw_params
    except ConfigError:
        return True


def summarise(project: Project, verdict: str, *, shipped: bool = True) -> Result:
    """Collect the result of a finished run and draw its report; `shipped` says whether it packaged a scorer."""
    from assay.calibration.calibrators.promise import band_sentence
    from assay.pipeline.evaluating import read_evaluation
    from assay.pipeline.selecting import read_selection
    from assay.scorer.loading import load_scorer

    folders = scorer_folders(project) if shipped else []
    scorer = load_scorer(folders[0]) if folders else None
    deployment = read_deployment(project.root, project.dataset)
    evaluation = read_evaluation(project.folder("evaluate"))
    record = project.folder("package" if shipped else "select") / RECORD
    # Each once: they read the log.
    rows, helps, compared = leaderboard(project), would_help(project, scorer), gate_comparison(project, scorer)
    return Result(
        dataset=project.dataset,
        eps=project.config.eps,
        evidence=evaluation.evidence,
        unit=read_json(project.folder("split") / "split.json")["unit"],
        candidates=tuple(rows),
        scorer=scorer.tag if scorer else None,
        statement=scorer.statement.id if scorer else None,
        champion=None if deployment is None else deployment.tag,
        champion_statement=None if deployment is None else deployment.statement,
        verdict=verdict,
        report=str(write_report(project, scorer, rows, helps, compared).relative_to(project.root)),
        record=str(record.relative_to(project.root)),
        folder=str(folders[0].relative_to(project.root)) if folders else None,
        guarantee=scorer.guarantee if scorer else "",
        band=band_sentence(scorer.fpr_bands(), scorer.head["eps"]) if scorer else "",
        choice=choice_sentence(read_selection(project.folder("select"))),
        helps=tuple(helps),
        limits=scorer.limits if scorer else "",
        n_uncalibrated=evaluation.n_uncalibrated,
        left_out=left_out_levels(project),
        held=held_rows(project),
        contradictions=contradictions(project),
        gate=None if compared is None else compared.to_json(),
        uncommitted=tuple(versioning.uncommitted(project.root, "deployments", "scorers")),
    )


def print_result(result: Result) -> None:
    """Print the table of candidates, the scorer, its report and record, and the command that serves it."""
    title = f"{result.dataset}: test rows, trained without injected rows"
    console.paper.print(candidates_table(result.candidates, eps=result.eps, evidence=result.evidence, title=title))
    if result.n_uncalibrated:
        console.paper.print(
            f"{result.n_uncalibrated} test rows are left out: their categories have no calibration rows, and a scorer "
            "refuses rows of such categories",
            markup=False,
        )
    for sentence in filter(None, (result.left_out, result.held, result.contradictions)):
        console.paper.print(sentence, markup=False)
    for row in result.candidates:
        if row.reason:
            prefix = f"{row.state}: " if row.state else ""
            console.paper.print(f"{prefix}{row.detector}+{row.adapter}: {row.reason}", markup=False)
    lines = [
        ("scorer", _with_statement(result.scorer, result.statement)),
        ("champion", _with_statement(result.champion, result.champion_statement)),
        ("", result.verdict),
        *((("choice", result.choice),) if result.choice else ()),
        *(("p-values", sentence) for sentence in (result.guarantee, result.band, result.limits) if sentence),
        *(("to do" if n == 0 else "", sentence) for n, sentence in enumerate(result.helps)),
    ]
    lines += [("folder", result.folder or "none"), ("report", result.report), ("lineage", result.record)]
    if result.champion:
        lines.append(("serve", f"assay serve {result.dataset}"))
    if result.uncommitted:
        lines.append(("commit", "git add --all, then git commit and dvc push: clones have this champion only then"))
    for name, text in lines:
        console.paper.print(f"{name:<9}{text}", markup=False)


def _with_statement(tag: str | None, statement: str | None) -> str:
    """Return the tag of a scorer with its statement, where that is not the scorer itself."""
    return sealed_tag(tag, statement or "") if tag else "none"


def refresh(project: Project, *, deploy: bool = True) -> Result:
    """Finish a run in which every stage was fresh: update dvc.lock, deliver the scorer, and return the result."""
    refresh_code(project)
    if set(versioning.status(project.root)) - {versioning.DATA}:
        versioning.commit(project.root, [CODE_STAGE, *project.stages])
    console.say("nothing changed: every stage is fresh")
    return summarise(project, deliver(project, deploy=deploy))


def stage_line(outcome: Outcome) -> str:
    """Return one line about a stage: its seconds, or that it was fresh."""
    duration = f"{outcome.seconds:6.1f} s" if outcome.ran else "   fresh"
    return f"{outcome.stage.title:<28}{duration}"
