"""Delivery: the scorer of a run is published, and becomes champion or does not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from assay.data.answers import barred_rows
from assay.errors import AssayError
from assay.openlineage.client import emit_done
from assay.openlineage.naming import PROMOTE
from assay.project.accounts import all_events
from assay.project.comparisons import SUPERIOR, add_comparison, read_comparisons
from assay.project.config import ASK
from assay.project.deployed import keep_scorer
from assay.project.deployment import Deployment, keep, promote, read_deployment
from assay.project.layout import Project
from assay.project.scorers import Packaged, find_packaged, scorer_folders, statements_of

if TYPE_CHECKING:
    from assay.release.champion import Verdict
    from assay.scorer.statement import Statement

_ASKS = "; `gate: ask` leaves it to you: "


def deliver(project: Project, *, deploy: bool = True) -> str:
    """Publish the scorer and decide whether it becomes champion; return the verdict as text.

    Whatever becomes champion is kept in ``scorers/``, with each of its statements. Without `deploy` the scorer stays
    packaged and nothing else.
    """
    (folder,) = scorer_folders(project)
    packaged = find_packaged(folder, project.root)
    current, statement = read_deployment(project.root, project.dataset), packaged.statement
    if not deploy:
        if current is not None and current.version == statement.version:
            return f"packaged; its answers are those of the champion {current.tag}"
        return f"packaged, not deployed; to deploy it: assay promote {statement.tag} --why WHY"
    _publish(project, packaged)
    if current is not None and current.version == statement.version:
        keep_scorer(project.root, folder)
        if (current.statement or current.version) == statement.id:
            return f"{current.tag} is the champion already"
    decision = _challenge(project, packaged, current)
    if decision.promote and project.config.gate == ASK:
        asked = f"{decision.reason}{_ASKS}assay promote {statement.tag} --why WHY"
        decision = replace(decision, promote=False, reason=asked)
    if decision.compared is not None and decision.is_new:
        add_comparison(project.root, project.dataset, decision.compared, project.events)
    if decision.promote:
        keep_scorer(project.root, folder)
        _promote(project, packaged, decision.reason)
    elif decision.statement is not None and current is not None:
        champion = find_packaged(f"{current.tag}-{decision.statement}", project.root)
        _publish(project, champion)
        keep_scorer(project.root, champion.folder)
        _promote(
            project, champion, f"its statement {champion.statement.id} is of no quarantined rows; {decision.reason}"
        )
    else:
        keep(
            project.root,
            project.dataset,
            statement.version,
            statement=statement.id,
            reason=decision.reason,
            events=project.events,
        )
    return decision.reason


def _publish(project: Project, packaged: Packaged) -> None:
    from assay.release.bento import bind, publish

    bind(publish(packaged, root=project.root, chain_head=project.events.head), project.events)


def promote_by_hand(project: Project, tag: str, reason: str) -> Statement:
    """Make a scorer the champion of its dataset, since a person says so; call it under the project's lock."""
    from assay.scorer.loading import load_scorer

    packaged = find_packaged(tag, project.root)
    statement = load_scorer(packaged.folder, packaged.statement.id).statement
    _publish(project, packaged)
    keep_scorer(project.root, packaged.folder)
    _promote(project.on(statement.name), packaged, reason)
    return statement


def _promote(project: Project, packaged: Packaged, reason: str) -> None:
    statement = packaged.statement
    promote(
        project.root,
        project.dataset,
        statement.version,
        statement=statement.id,
        bento=f"assay-{statement.tag}",
        reason=reason,
    )
    emit_done(project, PROMOTE)


def _challenge(project: Project, packaged: Packaged, current: Deployment | None) -> Verdict:
    from assay.data.card import read_card
    from assay.release.champion import Verdict, clean_statement, judge

    if current is None:
        return Verdict(True, "the first scorer of this dataset that is deployed")
    try:
        champion = find_packaged(current.tag + (f"-{current.statement}" if current.statement else ""), project.root)
    except AssayError as error:
        by_hand = f"assay promote {packaged.statement.tag} --why WHY"
        return Verdict(False, f"the champion cannot be compared: {error}; to replace it: {by_hand}")
    quarantined = barred_rows(project.root, project.dataset)
    others = statements_of(project.root, project.dataset, current.version)
    if current.version == packaged.statement.version:
        again = f"this run made the champion {current.tag} again, with statement {packaged.statement.id}"
        return Verdict(False, again, clean_statement(champion.statement, others, quarantined))
    return judge(
        packaged,
        champion,
        project.folder("split") / "gate",
        eps=project.config.eps,
        seed=project.config.sections["select"]["seed"],
        rule=SUPERIOR if project.config.gate == ASK else project.config.gate,
        earlier=read_comparisons(project.root, project.dataset, all_events(project.root)),
        find=lambda tag: find_packaged(tag, project.root),
        quarantined=quarantined,
        others=others,
        card=read_card(project.data),
    )


def left_to_a_person(verdict: str) -> str:
    """Return why a person may promote the scorer, where a verdict of `deliver` leaves that to one, else ""."""
    reason, asks, _ = verdict.rpartition(_ASKS)
    return reason if asks else ""
