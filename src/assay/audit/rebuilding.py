"""Verification by a replay: what could not be compared with recorded bytes is rebuilt from the recorded inputs."""

from __future__ import annotations

from dataclasses import replace

from assay.audit.findings import NOT_HERE, UNCHECKED, Finding, Findings
from assay.audit.replay import BY_OTHER_CODE, DIFFERS, SAME, Replayed, replay_scorer
from assay.errors import AssayError
from assay.project.layout import Project

_CODE, _SCORER, _STAGE, _DATA = "code", "scorer", "stage ", "data/"


def rebuild(project: Project, findings: Findings) -> Findings:
    """Return the findings after a replay of the scorer, which answers for what could not be checked otherwise.

    Bytes that come out as recorded are "ok". Others differ only if this machine trained the scorer by the same code;
    elsewhere they stay "unchecked". Where there is nothing that a replay could answer for, there is none.
    """
    if not any(map(_can_be_rebuilt, findings.items)):
        return findings
    tag = f"{findings.tag}-{findings.statement}" if findings.statement not in findings.tag else findings.tag
    try:
        replayed = replay_scorer(project, tag)
    except AssayError as error:
        return replace(findings, items=(*findings.items, Finding("replay", UNCHECKED, str(error))))
    items = (_answered(each, replayed) if _can_be_rebuilt(each) else each for each in findings.items)
    return replace(findings, items=tuple(items))


def _can_be_rebuilt(finding: Finding) -> bool:
    is_rebuilt = finding.what == _CODE or finding.what.startswith((_STAGE, _DATA))
    return is_rebuilt and finding.state in (NOT_HERE, UNCHECKED)


def _answered(finding: Finding, replayed: Replayed) -> Finding:
    if finding.what.startswith(_DATA):
        return Finding(finding.what, "ok", f"{finding.detail}; the replay read the recorded bytes")
    name = _SCORER if finding.what == _CODE else finding.what
    part = next((each for each in replayed.compared if each.what == name), None)
    if part is None:
        return finding
    detail = f"{finding.detail}; replayed: {part.state} ({part.detail})"
    if part.state in (SAME, BY_OTHER_CODE):
        return Finding(finding.what, "ok", detail)
    is_wrong = part.state == DIFFERS and replayed.trained_here and not replayed.other_code
    return Finding(finding.what, "differs" if is_wrong else UNCHECKED, detail)
