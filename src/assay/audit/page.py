"""The chain behind a scorer as one HTML file, without network or script: a graph in SVG, and a card for every node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.audit.findings import LIMITS, NOT_HERE, UNCHECKED
from assay.audit.show import Node, Shown, words
from assay.errors import ConfigError
from assay.parts import write_bytes

WIDTH, HEIGHT, GAP, LEFT, TOP, LANE, LANES = 400, 56, 22, 172, 8, 15, 10
STATES = {
    "ok": ("as recorded", "the bytes are the recorded ones"),
    "superseded": ("moved on", "a later run or a recorded edit took its place; the record is intact"),
    NOT_HERE: ("not here", "a clone has to fetch it; the record is intact"),
    UNCHECKED: ("not checked", "the recorded bytes are kept nowhere, so that nothing can be compared"),
    "differs": ("differs", "the bytes are not the recorded ones"),
    "": ("not there", "there is no record of it"),
}
ROWS_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Box:
    """A drawn node: its number among the boxes, its top left corner, and its summary line."""

    node: Node
    number: int
    x: int
    y: int
    line: str


@dataclass(frozen=True, slots=True)
class Edge:
    """An arrow between two boxes: the path of its line, and its title."""

    start: int
    end: int
    path: str
    title: str


def write_page(path: Path, shown: Shown) -> None:
    """Draw the chain behind a scorer to an HTML file.

    Raises
    ------
    ConfigError
        The file cannot be written.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("assay.audit", "."), autoescape=True, trim_blocks=True)
    environment.filters.update(words=words, plain=lambda name: name.replace("_", " "))
    boxes = [_box(node, number) for number, node in enumerate(shown.nodes)]
    content = environment.get_template("lineage.html").render(
        shown=shown,
        boxes=boxes,
        edges=edges_of(boxes),
        states=STATES,
        limits=LIMITS,
        rows=(shown.injected or [])[:ROWS_SHOWN],
        differing=[finding for finding in shown.findings.items if finding.state == "differs"],
        width=LEFT + WIDTH + 8,
        height=boxes[-1].y + HEIGHT + TOP,
        box_width=WIDTH,
        box_height=HEIGHT,
    )
    try:
        write_bytes(path, content.encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; give another file to --html") from error


def edges_of(boxes: list[Box]) -> list[Edge]:
    """Draw a line for each input of a box: straight from the box above, else an arc at the left.

    Arcs of different length have different lanes, the longer ones farther out.
    """
    numbers = {box.node.key: box.number for box in boxes}
    edges = []
    for box in boxes:
        for source, parts in box.node.reads.items():
            if source not in numbers:  # a stage that is neither known nor named by the scorer
                continue
            start = boxes[numbers[source]]
            title = f"{box.node.title} reads {', '.join(parts)} of {start.node.title}"
            edges.append(Edge(start.number, box.number, _path(start, box), title))
    return edges


def _path(start: Box, end: Box) -> str:
    if end.number == start.number + 1:
        x = start.x + WIDTH // 2
        return f"M{x},{start.y + HEIGHT} V{end.y - 2}"
    lane = LEFT - LANE * min(end.number - start.number - 1, LANES) - 8
    leaves, enters = start.y + HEIGHT * 2 // 3, end.y + HEIGHT // 3
    return (
        f"M{start.x},{leaves} H{lane + 8} Q{lane},{leaves} {lane},{leaves + 8} "
        f"V{enters - 8} Q{lane},{enters} {lane + 8},{enters} H{end.x - 2}"
    )


def _box(node: Node, number: int) -> Box:
    return Box(node, number, LEFT, TOP + number * (HEIGHT + GAP), _line(node))


def _line(node: Node, most: int = 58) -> str:
    """Return the main facts of a node on one line."""
    text = _summary(node)
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _summary(node: Node) -> str:
    facts: dict[str, Any] = node.facts
    if node.key == "contaminate":
        levels = [
            f"{level['n_injected']} at {level['rho']:g}" for level in facts.get("levels", ()) if level["n_injected"]
        ]
        return f"rows injected: {', '.join(levels) or 'none'}; seed {facts.get('seed', '-')}"
    if node.key == "split":
        rows = [f"{role} {text.split()[0]}" for part in facts.get("roles", ()) for role, text in part.items()]
        return ", ".join(rows)
    names = {
        "code": ("files", "assay", "constraints_txt"),
        "data": ("rows", "columns", "modality"),
        "validate": ("failed", "batches"),
        "train": ("shipped", "seed", "device"),
        "calibrate": ("shipped", "m", "smallest_eps"),
        "select": ("winner", "mean_power", "candidates"),
        "evaluate": ("auroc", "auprc", "fpr", "power"),
        "package": ("candidate", "eps"),
        "bento": ("tag",),
        "deployment": ("since", "champion"),
    }.get(node.key, ("files",))
    shown = {name: facts[name] for name in names if name in facts}
    return words(shown) or facts.get("file") or node.detail or "-"
