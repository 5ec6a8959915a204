"""What the code of a stage consists of: the modules that its verb imports, and the distributions that these import.

Imports inside functions count, those for annotations (``if TYPE_CHECKING``) do not. A registry, a mapping of names to
``"module:Class"``, leads to the members that are used and to no other. A package's ``__init__`` that only imports names
again is passed through. Modules are compared without comments, docstrings and layout, so that only edits that can
change a result change the code.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from assay.hashing import hash_bytes

VERSIONS = "distributions/"
_EXTERNAL = ("assay.detectors.registry", "external")  # the member for detectors that are named by their path
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "PyYAML"}  # by name of import, where they differ
_BELOW = {"sklearn": ("numpy", "scipy")}  # what a distribution computes with
_MEMBER = re.compile(r"assay(\.\w+)+:\w+")


@dataclass(frozen=True)
class Module:
    """What a module's source says.

    Attributes
    ----------
    digest : str
        SHA-256 of the source without comments, docstrings, layout, imports for annotations, and members of registries.
    imports : tuple of (str, str or None)
        Imported modules; with the name for ``from module import name``.
    members : dict of str to str
        Registered classes as ``module:Class``, by the name that they are registered under.
    defaults : dict of str to set of str
        Texts that are defaults of fields, by field; the name of a registered part may be among them.
    parts : dict of str to str
        SHA-256 of each registered member.
    """

    digest: str
    imports: tuple[tuple[str, str | None], ...]
    members: dict[str, str]
    defaults: dict[str, set[str]]
    parts: dict[str, str]


def code_of(
    source: Path, roots: Iterable[str], names: Iterable[str] | None, *, given: Collection[str] = ()
) -> dict[str, str]:
    """Return the code that some modules consist of.

    Parameters
    ----------
    source : Path
        Folder that holds the package ``assay``.
    roots : iterable of str
        Modules, or functions in them (``module:function``), whose other code does not count.
    names : iterable of str or None
        Names of the registered parts that are used, and paths of classes elsewhere; None for all registered ones.
    given : collection of str
        Fields whose defaults no part uses.

    Returns
    -------
    dict of str to str
        SHA-256 of every module, and of every function and registered member (``module:name``); version of every
        distribution (``distributions/name``).
    """
    roots, modules = list(roots), _Modules(source)
    code = {root: code_digest(source, root) for root in roots if ":" in root}
    imported, members, used = set[str](), dict[str, str](), set(names or ())
    paths = {name for name in (("pyod.",) if names is None else names) if "." in name}
    used |= {_EXTERNAL[1]} if paths else set()
    waiting = [root for root in roots if ":" not in root]
    while waiting:
        name = waiting.pop()
        module = None if name in code else modules.read(name)
        if module is None:
            continue
        code[name] = module.digest
        used |= set().union(*(texts for field, texts in module.defaults.items() if field not in given))
        members |= {f"{name}:{key}": target for key, target in module.members.items()}
        own = [origin for origin in module.imports if origin[0].partition(".")[0] == "assay"]
        waiting += [modules.origin(*origin) for origin in own]
        imported |= {origin.partition(".")[0] for origin, _ in module.imports} - {"assay"}
        for member in [member for member in members if names is None or member.partition(":")[2] in used]:
            target = members.pop(member)
            code[member] = hash_bytes(target.encode())
            waiting.append(target.partition(":")[0])
    if ":".join(_EXTERNAL) in code:
        imported |= {path.partition(".")[0] for path in paths}
    return code | versions_of(imported)


def versions_of(imported: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of the distributions that are imported by these names.

    The local part of a version, which names a machine (``+cpu``), is left out, and so is what is not installed.
    """
    found = {}
    for name in sorted({part for each in imported for part in (each, *_BELOW.get(each, ()))}):
        distribution = _DISTRIBUTIONS.get(name, name.replace("_", "-"))
        if name not in sys.stdlib_module_names and (installed := _version(distribution)):
            found[f"{VERSIONS}{distribution}"] = installed
    return found


@lru_cache(maxsize=256)
def _version(distribution: str) -> str:
    try:
        return version(distribution).partition("+")[0]
    except PackageNotFoundError:
        return ""


def code_digest(source: Path, name: str) -> str:
    """Return the present digest of code as `code_of` names it, without distributions; "" where there is none."""
    path = _path(source, name.partition(":")[0])
    return "" if path is None else digest_in(path.read_bytes(), name.partition(":")[2])


def digest_in(content: bytes, part: str = "") -> str:
    """Return the digest of a module by its content, or of a part of it; "" where there is no such part.

    Parameters
    ----------
    content : bytes
    part : str
        Name of a function, or of a registered member.
    """
    module = _parse(content)
    return (module.parts.get(part) or _functions(content).get(part, "")) if part else module.digest


def _path(source: Path, module: str) -> Path | None:
    """Return the file of a module, None if there is no such module."""
    path = source.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


class _Modules:
    """The modules in a folder; each is looked for and read once."""

    def __init__(self, source: Path) -> None:
        self.path = cache(partial(_path, source))
        self.read, self.origin = cache(self._read), cache(self._origin)

    def _read(self, name: str) -> Module | None:
        path = self.path(name)
        return None if path is None else _parse(path.read_bytes())

    def _origin(self, module: str, name: str | None) -> str:
        """Return the module that `name` comes from: a submodule, or what an ``__init__`` takes it from."""
        if name is not None and self.path(f"{module}.{name}") is not None:
            return f"{module}.{name}"
        path, content = self.path(module), self.read(module)
        if name is not None and path is not None and content is not None and path.name == "__init__.py":
            for origin, attribute in content.imports:
                if attribute == name:
                    return self.origin(origin, attribute)
        return module


@lru_cache(maxsize=1024)
def _parse(content: bytes) -> Module:
    try:
        tree, members = _read_tree(content)
    except (SyntaxError, ValueError):
        return Module(hash_bytes(content), (), {}, {}, {})
    nodes = list(ast.walk(tree))
    names = [(alias.name, None) for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    froms = [
        (node.module or "", alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    fields = [node for node in nodes if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.dump(node.annotation)]
    defaults: dict[str, set[str]] = {}
    for node in fields:
        value = node.value.value if isinstance(node.value, ast.Constant) else None
        if isinstance(node.target, ast.Name) and isinstance(value, str):
            defaults.setdefault(node.target.id, set()).add(value)
    parts = {name: hash_bytes(target.encode()) for name, target in members.items()}
    return Module(_digest(tree), (*names, *froms), members, defaults, parts)


@lru_cache(maxsize=64)
def _functions(content: bytes) -> dict[str, str]:
    """Return the digest of each function of a module."""
    try:
        tree, _ = _read_tree(content)
    except (SyntaxError, ValueError):
        return {}
    return {node.name: _digest(node) for node in tree.body if isinstance(node, ast.FunctionDef)}


def _read_tree(content: bytes) -> tuple[ast.Module, dict[str, str]]:
    """Return the plain syntax tree of a module without its registered members, and these."""
    tree = _Plain().visit(ast.parse(content))
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    members = _Members(constants)
    return members.visit(tree), members.found


def _digest(tree: ast.AST) -> str:
    return hash_bytes(ast.dump(tree).encode())


class _Plain(ast.NodeTransformer):
    """Takes docstrings and imports for annotations out of a module."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if is_text else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
        return self.generic_visit(node)


class _Members(ast.NodeTransformer):
    """Takes registered members, ``name: "module:Class"``, out of a module, and collects them."""

    def __init__(self, constants: Mapping[str, object]) -> None:
        self.constants, self.found = constants, dict[str, str]()

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        kept = [pair for pair in zip(node.keys, node.values, strict=True) if not self._is_member(*pair)]
        node.keys, node.values = [key for key, _ in kept], [value for _, value in kept]
        return self.generic_visit(node)

    def _is_member(self, key: ast.expr | None, value: ast.expr) -> bool:
        if not (isinstance(value, ast.Constant) and isinstance(value.value, str) and _MEMBER.fullmatch(value.value)):
            return False
        name = (
            key.value
            if isinstance(key, ast.Constant)
            else self.constants.get(key.id)
            if isinstance(key, ast.Name)
            else None
        )
        if not isinstance(name, str):
            return False
        self.found[name] = value.value
        return True
