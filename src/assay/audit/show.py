"""Showing the chain behind a scorer: one node for each step from its deployment back to the raw bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from assay.audit.chain import Chain, event_of, read_chain
from assay.audit.commits import Origin, find_origin
from assay.audit.facts import facts_of
from assay.audit.findings import NOT_HERE, UNCHECKED, Finding, Findings
from assay.audit.verify import verify_scorer
from assay.hashing import hash_bytes, hash_json
from assay.parts import parse_json
from assay.project.anchors import bento_folder, bento_labels
from assay.project.deployment import read_deployment
from assay.project.installed import CONSTRAINTS
from assay.project.layout import Project
from assay.project.modules import VERSIONS
from assay.project.stages import STAGES
from assay.scorer.statement import sealed_tag

SETTINGS = {
    "expectations": "Expectation suite",
    "quarantine": "Quarantine",
    "labels": "Labels of calibration rows",
    "answers": "Answers about training rows",
    "targets": "Target rows",
}


@dataclass(frozen=True, slots=True)
class Node:
    """One step in the chain.

    Attributes
    ----------
    key, title : str
    state : str
        As `assay.audit.verify.verify_scorer` found it (`assay.audit.findings.Finding`); "" where it does not
        exist.
    detail : str
        Details from verification.
    digest : str
        Its hash.
    facts : dict
        JSON values; without those whose source has no intact copy left.
    reads : dict of str to list of str
        By key of each node that it reads from: the parts read.
    """

    key: str
    title: str
    state: str
    detail: str
    digest: str
    facts: dict[str, Any] = field(default_factory=dict)
    reads: dict[str, list[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the node as plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Shown:
    """The chain behind a scorer, raw data first, with the injected rows of its levels."""

    findings: Findings
    nodes: tuple[Node, ...]
    origin: Origin
    injected: list[dict[str, Any]] | None

    def to_json(self) -> dict[str, Any]:
        """Return the chain as plain JSON values."""
        return {
            "scorer": self.findings.tag,
            "statement": self.findings.statement,
            "intact": self.findings.intact,
            "origin": self.origin.to_json(),
            "nodes": [node.to_json() for node in self.nodes],
            "injected_rows": self.injected,
        }

    def lines(self, *, rows: bool = False) -> Iterator[str]:
        """Yield the chain as aligned text, from the deployment back to the raw bytes."""
        for node in reversed(self.nodes):
            yield f"{node.title:<26}  {node.state or 'none':<12}{node.digest}"
            if node.state in ("differs", NOT_HERE, UNCHECKED, "superseded"):
                yield f"    {node.detail}"
            for name, value in node.facts.items():
                label = name.replace("_", " ")
                for part in value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]:
                    yield f"    {label:<22}{words(part)}"
                    label = ""
            for source, parts in node.reads.items():
                yield f"    {'reads':<22}{source}: {', '.join(parts)}"
        if rows:
            yield from self._row_lines()
        yield f"origin: {self.origin.note}"
        yield from (f"    {command}" for command in self.origin.commands)
        tag = sealed_tag(self.findings.tag, self.findings.statement)
        yield f"{tag}: {self.findings.verdict} (assay audit verify)"

    def _row_lines(self) -> Iterator[str]:
        if self.injected is None:
            yield "injected rows: neither work/ nor DVC's cache holds them intact any more"
            return
        yield f"injected rows: {len(self.injected)}"
        for row in self.injected:
            levels = ", ".join(f"{rho:g}" for rho in row["levels"])
            yield (
                f"    {row['row_id']:<28}from {row['source_row'] or '-':<28}{row['recipe']:<12}"
                f"seed {row['seed']:<6}at {levels}"
            )


def words(value: Any) -> str:
    """Return a fact as text."""
    if isinstance(value, dict):
        return ", ".join(f"{str(name).replace('_', ' ')} {words(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(words(part) for part in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_scorer(project: Project, tag: str) -> Shown:
    """Collect the chain behind a scorer, with the state of each part by verification.

    Raises
    ------
    ScorerError
        There is no such scorer, or its scorer.json is not valid.
    """
    chain, findings = read_chain(project, tag), verify_scorer(project, tag)
    states = {each.what: each for each in findings.items}
    nodes = [_code(chain, states["code"]), _data(chain, states[f"data/{chain.name}"])]
    for path, digest in chain.settings.items():
        title = SETTINGS.get(path.partition("/")[0], path)
        nodes.append(Node(path, title, states[path].state, states[path].detail, digest, {"file": path}))
    for stage in chain.unknown:
        finding = states[f"stage {stage}"]
        nodes.append(Node(stage, f"Stage {stage}", finding.state, finding.detail, chain.named(stage)))
    for stage in STAGES:
        finding = states["scorer folder"] if stage == "package" else states.get(f"stage {stage}", Finding(stage, ""))
        nodes.append(_stage(chain, stage, finding))
    nodes += [_bento(chain, states["Bento"]), _deployment(chain, states["deployment"])]
    return Shown(findings, tuple(nodes), find_origin(chain), injected_rows(chain))


def injected_rows(chain: Chain) -> list[dict[str, Any]] | None:
    """List every injected row: its source row, recipe, seed and levels.

    None where no intact copy of a level is left in work/ or DVC's cache.
    """
    plan = chain.json("contaminate", "plan.json")
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for level in [] if plan is None else plan["levels"]:
        rows = chain.rows("contaminate", f"level-{level['rho']:g}")
        if rows is None:
            return None
        for row in rows:
            values = {name: row[name] for name in ("row_id", "fingerprint", "source_row", "recipe")}
            entry = entries.setdefault(
                (row["row_id"], row["fingerprint"]), {**values, "seed": int(row["seed"]), "levels": []}
            )
            entry["levels"].append(level["rho"])
    return None if plan is None else list(entries.values())


def _code(chain: Chain, finding: Finding) -> Node:
    facts: dict[str, Any] = {"files": sum(not path.startswith(VERSIONS) for path in chain.code)}
    if chain.made_by:
        facts["assay"] = chain.made_by
    if CONSTRAINTS in chain.code:  # a record of an earlier version
        facts["constraints_txt"] = chain.code[CONSTRAINTS][:12]
    versions = {p.removeprefix(VERSIONS): v for p, v in sorted(chain.code.items()) if p.startswith(VERSIONS)}
    if versions:
        facts["installed"] = versions
    return Node("code", "Code and lock", finding.state, finding.detail, hash_json(chain.code), facts)


def _data(chain: Chain, finding: Finding) -> Node:
    split = chain.json("split", "split.json") or {"roles": {}}
    facts: dict[str, Any] = {
        "rows": sum(role["rows"] for role in split["roles"].values()) or None,
        "files": sorted(path.rpartition("/")[2] for path in chain.data),
    }
    card = chain.find_data(f"data/{chain.name}/card.json") if chain.data else None
    if card is not None:
        content = parse_json(card.read_bytes())
        facts |= {"source": content["source"], "modality": content["modality"], "columns": len(content["columns"])}
    return Node("data", "Raw data", finding.state, finding.detail, chain.data_version, facts)


def _stage(chain: Chain, stage: str, finding: Finding) -> Node:
    title, content = STAGES[stage].title, chain.contents.get(stage)
    digest = hash_bytes(content) if content is not None else ""
    facts = {name: value for name, value in facts_of(chain, stage).items() if value not in (None, [], {})}
    event = event_of(chain, "stage", stage=stage, record=digest)
    if event is not None:
        by = f" by {event['person']}" if "person" in event else ""
        facts["ran"] = f"{event['time']} on {event['machine']}{by}, {event['seconds']:g} s"
    if stage == "package":
        return Node(stage, title, finding.state, finding.detail, chain.version, facts, _reads(chain, stage))
    state = finding.state if content is not None else ""
    return Node(stage, title, state, finding.detail, digest, facts, _reads(chain, stage))


def _reads(chain: Chain, stage: str) -> dict[str, list[str]]:
    """Return the nodes whose files a stage's record lists as inputs, with the parts of them."""
    sources: dict[str, list[str]] = {}
    for path in chain.records[stage].inputs if stage in chain.records else ():
        parts = path.split("/")
        source = "data" if parts[0] == "data" else path if path in chain.settings else parts[2]
        part = parts[-1] if path in chain.settings or parts[0] == "data" else parts[3]
        if part not in sources.setdefault(source, []):
            sources[source].append(part)
    order = ["data", *chain.settings, *chain.unknown, *STAGES]
    positions = {source: position for position, source in enumerate(order)}
    return {source: sources[source] for source in sorted(sources, key=lambda source: positions.get(source, len(order)))}


def _bento(chain: Chain, finding: Finding) -> Node:
    tag = f"assay-{chain.statement.tag}"
    folder, logged = bento_folder(chain.project.root, chain.statement.tag), event_of(chain, "published", bento=tag)
    if logged is None and not folder.is_dir():
        return Node("bento", "Bento", "", finding.detail, "", {}, {"package": ["all"]})
    facts: dict[str, Any] = {"tag": tag}
    if (folder / "bento.yaml").is_file():
        facts |= {"chain_head": bento_labels(folder).get("chain_head", "")[:12]}
    if logged is not None:
        facts |= {"published": f"{logged['time']} on {logged['machine']}"}
    digest = str(logged["bento_hash"]) if logged else ""
    return Node("bento", "Bento", finding.state, finding.detail, digest, facts, {"package": ["all"]})


def _deployment(chain: Chain, finding: Finding) -> Node:
    title, deployed = "Deployment", read_deployment(chain.project.root, chain.name)
    reads = {"bento": ["tag"]}
    its_own = (chain.version, chain.statement.id)
    if deployed is None or (deployed.version, deployed.statement or deployed.version) != its_own:
        facts_without_it = {} if deployed is None else {"champion": deployed.tag}
        return Node("deployment", title, "", finding.detail, "", facts_without_it, reads)
    facts = {"champion": "yes", "since": deployed.since, "reason": deployed.reason, "previous": deployed.previous}
    return Node("deployment", title, finding.state, finding.detail, deployed.version, facts, reads)
