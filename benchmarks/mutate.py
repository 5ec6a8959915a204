"""Mutation testing: what share of seeded small faults in the code that decides is noticed by its own unit tests.

A mutant is a module with one change: a comparison, an operator, a number, a condition, `min` for `max`. It is killed if
a unit test of that module fails, or does not end in thirty times the time of the unchanged code.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.progress import track

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "mutation.md"
CALIBRATORS = "tests/unit/calibration/calibrators"
MODULES = {
    "calibration/calibrators/ranks.py": [f"{CALIBRATORS}/test_conformal.py", f"{CALIBRATORS}/test_promise.py"],
    "calibration/calibrators/conformal.py": [f"{CALIBRATORS}/test_conformal.py", f"{CALIBRATORS}/test_calibrators.py"],
    "calibration/calibrators/mondrian.py": [f"{CALIBRATORS}/test_mondrian.py", f"{CALIBRATORS}/test_calibrators.py"],
    "calibration/calibrators/grouped.py": [f"{CALIBRATORS}/test_grouped.py", f"{CALIBRATORS}/test_calibrators.py"],
    "calibration/calibrators/promise.py": [f"{CALIBRATORS}/test_promise.py"],
    "calibration/batches.py": ["tests/unit/calibration/test_batches.py"],
    "calibration/decisions.py": ["tests/unit/calibration/test_decisions.py"],
    "calibration/hardness.py": ["tests/unit/calibration/test_hardness.py"],
    "data/splitting.py": ["tests/unit/data/test_splitting.py"],
    "data/contamination.py": ["tests/unit/data/test_contamination.py"],
    "evaluation/selection.py": [f"tests/unit/evaluation/test_{name}.py" for name in ("selection", "leaving")],
    "evaluation/chances.py": ["tests/unit/evaluation/test_chances.py"],
    "evaluation/leaving.py": ["tests/unit/evaluation/test_leaving.py"],
    "evaluation/paired.py": ["tests/unit/evaluation/test_paired.py"],
    "project/comparisons.py": ["tests/unit/project/test_comparisons.py"],
    "hashing.py": ["tests/unit/test_records.py"],
    "project/freshness.py": ["tests/unit/project/test_freshness.py"],
}
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {"min": "max", "max": "min", "floor": "ceil", "ceil": "floor", "minimum": "maximum", "maximum": "minimum"}
SLOW = 30
# Survivors that change nothing which anybody could see: module, what was changed, in which line, and why.
EXPLAINED = {
    (
        "calibration/calibrators/mondrian.py",
        "True",
        "tables = zip(self.keys_, self._p_values, strict=True)",
    ): "one table for each key",
    (
        "calibration/hardness.py",
        "Gt",
        "if len(scaled) > MOST_ROWS:",
    ): "so many rows drawn of as many, and sorted, are the same rows",
    (
        "data/splitting.py",
        "True",
        'astray = ((rows["label"] == ANOMALY) & (rows["group"] != "")).to_numpy(dtype=np.bool_, copy=True)',
    ): "the comparison is an array of its own already; the copy guards against a pandas that gives it read-only",
    ("evaluation/chances.py", "1", "possible = np.arange(n + 1)"): "one more entry of a table, which no count looks up",
    (
        "evaluation/leaving.py",
        "Gt",
        "np.sort(rng.choice(of, _MOST_COMPARED, replace=False)) if len(of) > _MOST_COMPARED else of",
    ): "so many rows drawn of as many, and sorted, are the same rows",
    (
        "evaluation/paired.py",
        "1",
        "first, second = self._z(np.zeros((1, n_rows), dtype=np.bool_))",
    ): "the mean of two equal rows is that of one",
    ("hashing.py", "True", "text = json.dumps(entries, sort_keys=True)"): "the entries are made with sorted names",
    (
        "hashing.py",
        "False",
        'return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"',
    ): "a Python that forbids MD5 for security alone would tell it",
}
TEXT = """# Mutation testing

{doc}
Killed: {killed} of {total} ({share:.0%}). Of the survivors {explained} change nothing that anybody could see, each
explained below; of the others {share_of_others:.0%} were killed. Made by `make mutate`, with a seed: the same
code gives the same mutants.

| module | mutants | killed | survivors |
|---|---:|---:|---|
{rows}
"""


def places(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes that a mutant may change: none in annotations, docstrings, messages or imports."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr):
            continue
        if isinstance(node, ast.Compare | ast.BinOp | ast.BoolOp) or mutated(node) is not None:
            yield node
        for field, value in ast.iter_fields(node):
            if field not in ("annotation", "returns", "decorator_list", "type_params"):
                waiting += [
                    each for each in (value if isinstance(value, list) else [value]) if isinstance(each, ast.AST)
                ]


def mutated(node: ast.AST) -> str | None:
    """Return what would be changed about a node, or None."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        return type(node.ops[0]).__name__
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        return type(node.op).__name__
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return "Not"
    if isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
        return repr(node.value)
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name if name in NAMES else None


def change(node: ast.AST) -> None:
    """Change a node in place."""
    if isinstance(node, ast.Compare):
        node.ops[0] = OPERATORS[type(node.ops[0])]()  # type: ignore[assignment]
    elif isinstance(node, ast.BinOp | ast.BoolOp):
        node.op = OPERATORS[type(node.op)]()  # type: ignore[assignment]
    elif isinstance(node, ast.UnaryOp):
        node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant):
        value = node.value
        node.value = (
            (not value) if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 1.25 + 1e-3
        )
    elif isinstance(node, ast.Name):
        node.id = NAMES[node.id]
    elif isinstance(node, ast.Attribute):
        node.attr = NAMES[node.attr]


def mutants(source: str, n: int, seed: int) -> list[tuple[int, str, str]]:
    """Return up to n mutants: the line, what was changed, and the module's source."""
    tree = ast.parse(source)
    numbers = [i for i, node in enumerate(places(tree)) if mutated(node) is not None]
    drawn = sorted(random.Random(seed).sample(numbers, min(n, len(numbers))))
    made = []
    for number in drawn:
        other = copy.deepcopy(tree)
        node = list(places(other))[number]
        what, line = str(mutated(node)), int(getattr(node, "lineno", 0))
        change(node)
        made.append((line, what, ast.unparse(ast.fix_missing_locations(other))))
    return made


def passes(folder: Path, tests: list[str], limit: float | None = None) -> bool:
    """Return whether tests pass in a folder, within so many seconds."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]
    more = {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **more}
    try:
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0


def measure(module: str, tests: list[str], n: int, seed: int, folder: Path) -> tuple[int, list[tuple[int, str]]]:
    """Return how many mutants of a module were tried, and the line and kind of those that survived."""
    path = folder / "src" / "assay" / module
    source = path.read_text()
    began = time.monotonic()
    if not passes(folder, tests):
        raise SystemExit(f"{', '.join(tests)}: fails with the unchanged code")
    limit = SLOW * (time.monotonic() - began)
    tried, survivors = mutants(source, n, seed), []
    for line, what, text in track(tried, module):
        path.write_text(text)
        if passes(folder, tests, limit):
            survivors.append((line, what))
    path.write_text(source)
    return len(tried), survivors


def main() -> None:
    """Measure all modules, or those named, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=8, help="of a module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("modules", nargs="*", help="all by default, of which the page is written")
    options = parser.parse_args()
    rows, total, killed, explained = [], 0, 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "assay"
        files = subprocess.run(("git", "ls-files"), cwd=ROOT, capture_output=True, text=True, check=True)
        for name in files.stdout.splitlines():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        for module in options.modules or MODULES:
            tried, survivors = measure(module, MODULES[module], options.mutants, options.seed, folder)
            total, killed = total + tried, killed + tried - len(survivors)
            lines = (folder / "src" / "assay" / module).read_text().splitlines()
            named = []
            for line, what in survivors:
                text = lines[line - 1].strip()
                reason = EXPLAINED.get((module, what, text), "")
                explained += bool(reason)
                named.append(f"line {line}, {what}: `{text}`" + (f" (explained: {reason})" if reason else ""))
            shown = "; ".join(named).replace("|", "\\|")
            rows.append(f"| `{module}` | {tried} | {tried - len(survivors)} | {shown} |")
            print(rows[-1], flush=True)
    shares = {"share": killed / total, "share_of_others": killed / (total - explained)}
    text = TEXT.format(doc=__doc__, killed=killed, total=total, explained=explained, rows="\n".join(rows), **shares)
    if not options.modules:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
