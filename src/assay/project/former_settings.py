"""Bringing the settings of a project of an earlier version of Assay to the present form."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.calibration.adapters.registry import FORMER_AUTO
from assay.errors import ConfigError
from assay.parts import parse_yaml, write_bytes
from assay.project import versioning
from assay.project.cells import CELLS, refresh_cells
from assay.project.config import ALWAYS, DETECTOR, PROBES
from assay.project.creation import PIPELINE, pipeline
from assay.project.installed import CONSTRAINTS, SOURCE, holds_code, refresh_lock
from assay.project.layout import CODE, Project
from assay.project.stages import STAGES
from assay.project.templates import read_template

if TYPE_CHECKING:
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

_NEW = {
    "calibrate": {"promise": ("average", "says what p-values promise, as before")},
    "select": {"without_labels": (PROBES, "says what decides where no anomalies are labelled, as before")},
    "run": {
        "runner": ("local", "says that this machine does the work, as before"),
        "address": ("", "is for a Dask scheduler"),
    },
}
_FLOW, _IGNORED, _PARAMS, _LOCKED = "flows/retrain.py", ".dvcignore", "params.yaml", "dvc.lock"


def migrate_settings(root: Path) -> list[str]:
    """Rewrite params.yaml, dvc.yaml, dvc.lock, the flow and .dvcignore in the present form, and write cells.yaml.

    Comments in params.yaml and stages of the user's own in dvc.yaml are kept. What has the present form already is
    left as it is. Every file is written under a temporary name first.

    Returns
    -------
    list of str
        One sentence for each change; empty where there was nothing to do.

    Raises
    ------
    ConfigError
        A file cannot be read, or params.yaml holds values that are not allowed in the present form.
    """
    steps = (_migrate_params, _migrate_adapters, _migrate_pipeline, _migrate_lock, _migrate_flow, _migrate_ignored)
    told = [sentence for step in steps if (sentence := step(root))]
    project = Project(root)
    if refresh_cells(project):
        told.append(f"{CELLS} lists the datasets and detectors of {_PARAMS} for DVC; commit it.")
    refresh_lock(project)
    return told


def _load(path: Path) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML()
    yaml.preserve_quotes = True
    try:
        return yaml.load(path.read_bytes())
    except (YAMLError, OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; correct it, then run this again") from error


def _dump(path: Path, content: Any) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    buffer = io.BytesIO()
    yaml.dump(content, buffer)
    write_bytes(path, buffer.getvalue())


def _migrate_params(root: Path) -> str:
    """Make ``detectors`` a mapping of labels, and add settings that are new."""
    path = root / _PARAMS
    params: Any = _load(path)
    if not hasattr(params, "insert"):
        return ""
    changes = []
    if isinstance(params.get("detectors"), list):
        params["detectors"] = _labelled(params["detectors"])
        if "datasets" not in params:
            params.insert(list(params).index("dataset") + 1, "datasets", _in_line([params["dataset"]]))
        params.setdefault("run", _in_line({"cells_at_once": 1}))
        changes.append(
            "`detectors` is a mapping of labels now, `datasets` lists those that `dvc repro` works on, and "
            "`run.cells_at_once` says how many detectors are trained at the same time"
        )
    for section, settings in _NEW.items():
        for setting, (value, meaning) in settings.items():
            if hasattr(params.get(section), "insert") and setting not in params[section]:
                # Before the last setting: what follows that in the file are comments of the next section.
                params[section].insert(max(0, len(params[section]) - 1), setting, value)
                changes.append(f"`{section}.{setting}: {value}` {meaning}")
    if not changes:
        return ""
    _dump(path, params)
    return f"{_PARAMS}: {'; '.join(changes)}."


def _migrate_adapters(root: Path) -> str:
    """Put ``none`` in the place of ``auto``, which took it nearly always, or drop ``auto`` where ``none`` is listed."""
    path = root / _PARAMS
    params: Any = _load(path)
    adapters = params.get("adapters") if hasattr(params, "get") else None
    if not isinstance(adapters, list):
        return ""
    names = [entry if isinstance(entry, str) else next(iter(entry), "") for entry in adapters]
    if FORMER_AUTO not in names:
        return ""
    for place in [number for number, name in enumerate(names) if name == FORMER_AUTO][::-1]:
        if "none" in names:
            del adapters[place], names[place]
        else:
            adapters[place] = names[place] = "none"
    _dump(path, params)
    return f"{_PARAMS}: the adapter `auto` is no more; `none`, which it took nearly always, is listed instead."


def _labelled(entries: CommentedSeq) -> CommentedMap:
    """Return a list of detectors as a mapping of labels, with the comments of each entry."""
    from ruamel.yaml.comments import CommentedMap

    detectors = CommentedMap()
    detectors.ca.comment = entries.ca.comment
    for number, entry in enumerate(entries):
        name, params = (entry, None) if isinstance(entry, str) else next(iter(entry.items()))
        settings = CommentedMap() if params is None else params
        label = settings.pop("label", name.rpartition(".")[2])
        if DETECTOR in settings:
            settings = _in_line({DETECTOR: {name: settings}})
        elif label != name:
            settings.insert(0, DETECTOR, name)
        if not settings:
            settings.fa.set_flow_style()
        detectors[label] = settings
        if isinstance(entry, str) and number in entries.ca.items:
            detectors.ca.items[label] = [None, None, entries.ca.items[number][0], None]
        elif not isinstance(entry, str) and name in entry.ca.items:
            detectors.ca.items[label] = entry.ca.items[name]
    kinds = {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}
    for name in ALWAYS:
        if name not in kinds:
            detectors[name] = _in_line({})
    return detectors


def _in_line(value: Any) -> Any:
    """Return a list or mapping that is written on one line."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    written = CommentedMap(value) if isinstance(value, Mapping) else CommentedSeq(value)
    written.fa.set_flow_style()
    return written


def _migrate_pipeline(root: Path) -> str:
    """Write dvc.yaml anew, with the stages that are not Assay's as they were."""
    path = root / PIPELINE
    present = _load(path)
    stages = (present or {}).get("stages") or {}
    write = read_template(PIPELINE) if holds_code(root) else pipeline()
    ours = parse_yaml(write, path)["stages"]
    if all("do" in stages.get(verb, ()) for verb in STAGES):
        return _renew_stages(path, present, ours)
    own = {name: _own_stage(name, stage) for name, stage in stages.items() if name not in ours}
    other = {key: value for key, value in (present or {}).items() if key not in ("stages", "vars")}
    write_bytes(path, write)
    if own or other:
        content = _load(path)
        content["stages"].update(own)
        content.update(other)
        _dump(path, content)
    kept = f"; your own stages are kept: {', '.join(own)}" if own else ""
    return f"{PIPELINE} has one stage per verb and dataset now, and for `train` and `calibrate` one per detector{kept}."


def _renew_stages(path: Path, present: Any, ours: Mapping[str, Any]) -> str:
    """Let Assay's stages in dvc.yaml read what they read today; all else there, comments too, stays."""
    stages = present["stages"]
    changed = [name for name in STAGES if _inputs(stages[name]) != _inputs(ours[name])]
    for name in changed:
        stages[name]["do"].update(_inputs(ours[name]))
    if changed:
        _dump(path, present)
    return f"{PIPELINE}: {', '.join(changed)} read other inputs now." if changed else ""


def _inputs(stage: Any) -> dict[str, Any]:
    """Return what a stage in dvc.yaml depends on."""
    return {key: stage["do"][key] for key in ("deps", "params") if key in stage["do"]}


def _own_stage(name: str, stage: Any) -> Any:
    """Return a stage that a user added to Assay's: one for each dataset; any other one as it is."""
    if stage.get("cmd") != f"assay stage {name}":
        return stage
    deps = [path.replace("${dataset}", "${item}") for path in stage["deps"]]
    deps = [path for path in deps if not path.startswith(SOURCE) and path != CONSTRAINTS]
    outs = [path.replace("${dataset}", "${item}") for path in stage["outs"]]
    params = [entry for entry in stage.get("params", ()) if isinstance(entry, str)]
    do = {
        "cmd": f"{stage['cmd']}@${{item}}",
        "deps": [f"{CODE}/{name}/${{item}}", *deps],
        **({"params": params} if params else {}),
        "outs": outs,
    }
    return {"foreach": "${datasets}", "do": do}


def _migrate_lock(root: Path) -> str:
    """Drop the lines of stages that dvc.yaml no longer has."""
    path = root / _LOCKED
    if not path.is_file():
        return ""
    lock = _load(path)
    vanished = [name for name in lock.get("stages", ()) if name in STAGES]
    if not vanished:
        return ""
    for name in vanished:
        del lock["stages"][name]
    if lock["stages"]:
        _dump(path, lock)
    else:
        path.unlink()
    names = ", ".join(vanished)
    return f"{_LOCKED}: the lines of {names} are gone, since these stages have other names now; a run writes new ones."


def _migrate_flow(root: Path) -> str:
    """Write the flow anew; a file that Git does not hold is kept beside it."""
    path, content = root / _FLOW, read_template(_FLOW)
    if path.is_file() and path.read_bytes() == content:
        return ""
    before = path.read_bytes() if path.is_file() else None
    held = before is None or before == versioning.git(root, "show", f"HEAD:./{_FLOW}")
    if not held:
        write_bytes(path.with_name("retrain.old.py"), before or b"")
    write_bytes(path, content)
    return (
        f"{_FLOW} is that of this version of Assay; the former one is in {'Git' if held else 'flows/retrain.old.py'}."
    )


def _migrate_ignored(root: Path) -> str:
    """Let DVC pass over unfinished and retired outputs of cells."""
    path = root / _IGNORED
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    rule = read_template(_IGNORED).decode().splitlines()[-1]
    if rule in text.splitlines():
        return ""
    write_bytes(path, f"{text.rstrip()}\n{rule}\n".lstrip().encode())
    return f"{_IGNORED}: DVC passes over unfinished outputs of detectors, {rule}."
