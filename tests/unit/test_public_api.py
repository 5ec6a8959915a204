"""What `import assay` offers, and what it costs: no framework is imported where none is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import assay

FROZEN = Path(__file__).parents[1] / "frozen" / "scorer-1"
FRAMEWORKS = {"prefect", "dvc", "bentoml", "great_expectations"}
REPORT = "\nimport json, sys\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


def imported(code: str, *arguments: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running `code`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + REPORT, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def command(*arguments: str) -> set[str]:
    """The same after running `assay` with arguments that make it end at once."""
    return imported(
        f"import sys; sys.argv = ['assay', *{arguments!r}]\n"
        "from assay.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )


def test_the_public_names() -> None:
    assert assay.__all__ == ["__version__", "load"]
    assert dir(assay) == ["__version__", "load"]
    assert assay.__version__ == version("assay")
    with pytest.raises(AttributeError, match=r"no attribute 'train'; it has __version__, load"):
        _ = assay.train


def test_types_ship() -> None:
    assert (Path(assay.__file__).parent / "py.typed").is_file()


def test_import_alone_imports_nothing_heavy() -> None:
    heavy = {"numpy", "pandas", "scipy", "sklearn", "torch", "click", "rich", "yaml", "safetensors"} | FRAMEWORKS
    assert imported("import assay") & heavy == set()


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("run", "--help"), ("audit", "verify", "--help")])
def test_help_imports_no_numbers(arguments: tuple[str, ...]) -> None:
    heavy = {"numpy", "pandas", "scipy", "sklearn", "torch", "matplotlib"} | FRAMEWORKS
    assert command(*arguments) & heavy == set()


def test_loading_and_scoring_need_no_framework() -> None:
    code = (
        "import json, sys; from pathlib import Path; import assay\n"
        "frozen = Path(sys.argv[1]); expected = json.loads((frozen / 'expected.json').read_text())\n"
        "scorer = assay.load(next(frozen.glob('*/scorer.json')).parent)\n"
        "assert scorer.p_values(expected['features']).tolist() == expected['p_values']\n"
        "assert scorer.predict(expected['features'], eps=0.05).tolist() == expected['flags']\n"
    )
    found = imported(code, str(FROZEN))
    assert "numpy" in found
    assert found & (FRAMEWORKS | {"matplotlib", "click", "rich"}) == set()


def test_load_takes_a_tag_of_the_current_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    (packed,) = (path.parent for path in FROZEN.glob("*/scorer.json"))
    shutil.copytree(packed, tmp_path / "work/package/breast_cancer" / packed.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENTOML_HOME", raising=False)
    assert assay.load(f"breast_cancer:{packed.name[:4]}").version == packed.name
