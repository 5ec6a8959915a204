"""The question of `gate: ask`: a person answers it on the screen, or on Prefect's page, where the run waits for it."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from assay.errors import StageError
from assay.project import versioning
from assay.project.deployment import read_deployment
from assay.project.layout import Project
from assay.project.scorers import scorer_folders
from assay.runs.delivery import left_to_a_person, promote_by_hand
from assay.runs.run import Result, stale_stages
from assay.scorer.statement import sealed_tag

if TYPE_CHECKING:
    from prefect.input import RunInput

_PAUSE = "promotion"  # the name of the pause in Prefect
_INPUT = "question"


@dataclass(frozen=True, slots=True)
class PromotionQuestion:
    """Whether a scorer shall become the champion of its dataset.

    Attributes
    ----------
    dataset : str
    scorer : str
        Tag with its statement.
    champion : str or None
        That of the present champion, None where there is none.
    comparison : str
        Why it may.
    """

    dataset: str
    scorer: str
    champion: str | None
    comparison: str

    @classmethod
    def of(cls, result: Result) -> PromotionQuestion | None:
        """Return the question that a run leaves to a person, or None."""
        comparison = left_to_a_person(result.verdict)
        if not comparison or result.scorer is None:
            return None
        scorer = sealed_tag(result.scorer, result.statement or "")
        champion = sealed_tag(result.champion, result.champion_statement or "") if result.champion else None
        return cls(result.dataset, scorer, champion, comparison)

    def __str__(self) -> str:
        place = f"in place of {self.champion}" if self.champion else "as the first champion"
        return f"Promote {self.scorer} {place}?"

    def refusal(self, who: str, why: str = "") -> str:
        """Return in words that somebody said no, and what promotes the scorer all the same."""
        return f"{_said(who, 'no', why)}; to promote it all the same: assay promote {self.scorer} --why WHY"


def ask_on_screen(project: Project, result: Result) -> None:
    """Ask the person at the terminal what a run leaves to one, if it does, and promote on yes; no is the default.

    Where input or output is no terminal nobody is asked.
    """
    if not (question := PromotionQuestion.of(result)) or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    import click

    click.echo(f"{question} [y/N]: ", nl=False)  # `click.confirm` asks on standard error
    try:
        answer = sys.stdin.readline().strip().lower()
    except KeyboardInterrupt:
        answer = ""
    if answer not in ("y", "yes"):
        click.echo("not promoted; the command above does it later")
        return
    with project.lock(waits=True):
        who = versioning.person(project.root) or os.environ.get("USER") or f"user {os.geteuid()}"
        promote_as_asked(project, question, who)
    click.echo(f"{question.scorer} is the champion")


def promote_as_asked(project: Project, question: PromotionQuestion, who: str, why: str = "") -> None:
    """Promote the scorer of a question that somebody answered with yes; call it under the project's lock.

    Raises
    ------
    StageError
        The champion, or what the scorer was made from, is not what it was when the question was asked.
    """
    project = project.as_it_is().on(question.dataset)
    current = read_deployment(project.root, project.dataset)
    champion = None if current is None else sealed_tag(current.tag, current.statement or "")
    if champion != question.champion:
        raise StageError(
            f"{question.scorer} was not promoted: when it was asked, the champion was {question.champion or 'none'}, "
            f"and now it is {champion or 'none'}; compare it again with `assay run`"
        )
    if stale_stages(project) or question.scorer not in _packaged(project):
        raise StageError(
            f"{question.scorer} was not promoted: data, settings or code have changed since it was asked; run again "
            f"with `assay run`, or promote it as it is: assay promote {question.scorer} --why WHY"
        )
    promote_by_hand(project, question.scorer, f"{_said(who, 'yes', why)}; {question.comparison}")


def _packaged(project: Project) -> list[str]:
    """Return the tags, with statements, of what a project has packaged."""
    from assay.project.scorers import find_packaged

    return [find_packaged(folder, project.root).statement.tag for folder in scorer_folders(project)]


def _said(who: str, answer: str, why: str) -> str:
    return f"{who} said {answer}" + (f" ({why})" if why else "")


def suspended_question() -> PromotionQuestion | None:
    """Return the question that the present flow run was suspended with, None where it was not.

    A run that goes on after that begins from the start of its flow, in a process of its own.
    """
    from prefect.context import FlowRunContext
    from prefect.input import read_flow_run_input

    context = FlowRunContext.get()
    policy = context.flow_run.empirical_policy if context and context.flow_run else None
    if policy is None or _PAUSE not in (policy.pause_keys or ()):
        return None
    content: Any = read_flow_run_input(_INPUT)
    return PromotionQuestion(**content)


def ask_in_prefect(question: PromotionQuestion, seconds: float) -> Any:
    """Suspend the present flow run until somebody answers on Prefect's page, and return the answer when it goes on.

    The process of the run ends with the first call. Prefect fails a run that has no answer after so many seconds. The
    answer has the attributes ``promote``, ``name`` and ``why``.
    """
    from prefect.flow_runs import suspend_flow_run
    from prefect.input import create_flow_run_input

    if suspended_question() is None:
        create_flow_run_input(_INPUT, asdict(question))
    return suspend_flow_run(wait_for_input=_form(question), timeout=int(seconds), key=_PAUSE)


def _form(question: PromotionQuestion) -> type[RunInput]:
    """Return the form that Prefect's page shows."""
    from prefect.input import RunInput
    from pydantic import Field

    class Promotion(RunInput):
        promote: bool = Field(default=False, title="Promote it")
        name: str = Field(min_length=1, title="Your name, which is recorded")
        why: str = Field(default="", title="Why, which is recorded")

    return Promotion.with_initial_data(description=f"**{question}**\n\n{question.comparison}")
