"""Prompt files: front matter and two Jinja blocks, rendered in a sandbox into chat messages.

A prompt file looks like this:

    ---
    name: zero-shot.en
    version: 1
    description: ...
    read: code           # or `text`, the label's name; `reason`, reasons before the code; `decide`
    language: en
    layout: menu-first   # or `item-first`
    needs: []            # `examples`, `definitions`
    ---
    {% block system %} rules and the menu: everything that many items share {% endblock %}
    {% block item %} one item {% endblock %}

`system` becomes the system message. It cannot see the item, so it is the same for every item
with the same menu, and the server's prefix cache serves it. Examples become earlier turns: the
user turn is the `item` block, the assistant turn is the code alone. The item comes last.

With `layout: item-first` the item stands before the menu, in one user message: block `item` sees
the menu as well, and block `system` may be left out (many templates bring one of their own). A
causal model that reads the options after the item can compare them with it ("Lost in the Prompt
Order", Ok & Lee 2026); the price is that the menu cannot be cached, so it wants a short one.

Decision models (`read: decide`) are asked no chat: block `item` is the state, `question` the
instruction, and `option` and `description` (empty: none) are rendered for each category (`entry`).
They are not offered the exit.

Block `system` sees `menu` (entries with `code`, `node`, `name`, `label`, `description`,
`synonyms`), `exit` (its code), `parent` (the inner node whose children are on offer, or none) and
`about`. In
read mode `text` the codes are the labels' names. In read mode `reason` block `item` asks for
reasons as JSON, `{"rationale": "..."}`, and a third block, `code`, then asks for the code.
Block `item` sees `item`, a mapping of field name to text. Item text is a value, never a template.

This module does not know files of items, engines or how answers are read.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jinja2
import jinja2.meta
import yaml
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, ValidationError

from llmcat import resources
from llmcat.errors import BadPrompt
from llmcat.records import Menu, Message, Node, digest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from jinja2 import Template

__all__ = [
    "DECIDE",
    "DEFAULT",
    "DESCRIBED",
    "NONE_IN",
    "WHOLE_MENU",
    "Entry",
    "Fields",
    "Names",
    "Prompt",
    "Specimen",
    "available",
    "load",
    "spelled",
]

Language = Literal["en", "zh"]
Layout = Literal["menu-first", "item-first"]

DEFAULT, WHOLE_MENU, DECIDE = "zero-shot-item-first.en", "zero-shot.en", "decide.en"
"""The prompts where none is named: for instruct models, for engines made to read whole menus, and
for decision models."""
DESCRIBED = "decide-described"
NONE_IN: dict[Language, str] = {"en": "None of these", "zh": "以上都不是"}
"""The exit's name where answers are names (read mode `text`)."""

_NAME = re.compile(r"[\w.-]+")
_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n(.*)\Z", re.DOTALL)
_KNOWN = {"menu", "exit", "parent", "about", "item", "entry"}
_NO_COLUMN = re.compile(r"'[\w.]*Fields object' has no attribute")
_LAST = "code"


class FrontMatter(BaseModel):
    """What stands between the two `---` lines of a prompt file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: int
    description: str
    read: Literal["code", "text", "reason", "decide"] = "code"
    language: Language = "en"
    layout: Layout = "menu-first"
    needs: tuple[Literal["examples", "definitions"], ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the menu, in the prompt's language.

    `label` is the path, `name` the last part of it, or all of it where another category is called
    the same.
    """

    code: str
    node: Node
    name: str
    label: str
    description: str
    synonyms: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """A prompt file, parsed and checked. `text` is the whole file, `body` the Jinja part."""

    front: FrontMatter
    text: str
    body: str
    source: str

    @property
    def ref(self) -> str:
        """Name and version: `zero-shot.en@1`."""
        return f"{self.front.name}@{self.front.version}"

    @property
    def digest(self) -> str:
        """A hash of the file's text."""
        return digest(self.text)

    @cached_property
    def _template(self) -> Template:
        try:
            return _ENVIRONMENT.from_string(self.body)
        except jinja2.TemplateError as exc:  # unknown filters come out here, not in the parser
            raise BadPrompt(f"{self.source}: {exc}") from exc

    @cached_property
    def _globals(self) -> dict[str, Any]:
        return dict(self._template.globals)

    @property
    def item_first(self) -> bool:
        """Whether the item stands before the menu."""
        return self.front.layout == "item-first"

    def shared(self, menu: Menu, *, names: Names, about: str) -> tuple[Message, ...]:
        """Render what every item with this menu shares, to be cached by the server.

        Where the item comes first that is a system message that shows no menu, or nothing.
        """
        if self.item_first:
            if "system" not in self._template.blocks:
                return ()
            content = self._render("system", {"about": about})
        else:
            content = self._render("system", self._menu(menu, names, about))
        return ({"role": "system", "content": content},)

    def own(
        self, fields: Mapping[str, str], menu: Menu | None, *, names: Names, about: str
    ) -> Message:
        """Render the part that is one item's alone; without a menu, only to measure it."""
        values: dict[str, Any] = {"item": fields}
        if self.item_first:
            empty = {"menu": (), "exit": "", "parent": None, "about": about}
            values |= empty if menu is None else self._menu(menu, names, about)
        return {"role": "user", "content": self._render("item", values)}

    @property
    def decides(self) -> bool:
        """Whether it asks a decision model."""
        return self.front.read == "decide"

    def question(self, menu: Menu, *, names: Names, about: str) -> Message:
        """Render the instruction that a decision model gets."""
        parent = names.get(menu.parent.id, menu.parent.label) if menu.parent else None
        content = self._render("question", {"parent": parent, "about": about})
        return {"role": "question", "content": content}

    def option(self, node: Node, names: Names) -> dict[str, str | None]:
        """Return a category as a decision model reads it: name, and description if there is one."""
        kept = self._options.get(node.id)
        if kept is None or kept[0] is not names:
            entry = Entry(
                "", node, names.short(node), names[node.id], node.description, node.synonyms
            )
            name = " ".join(self._render("option", {"entry": entry}).split())
            told = ""
            if "description" in self._template.blocks:
                told = " ".join(self._render("description", {"entry": entry}).split())
            kept = self._options[node.id] = (names, {"name": name, "description": told or None})
        return kept[1]

    @cached_property
    def _options(self) -> dict[str, tuple[Names, dict[str, str | None]]]:
        return {}

    def _menu(self, menu: Menu, names: Names, about: str) -> dict[str, Any]:
        """Return what a block sees of a menu."""
        entries = [
            Entry(code, node, names.short(node), names[node.id], node.description, node.synonyms)
            for code, node in zip(menu.codes, menu.nodes, strict=False)
        ]
        parent = names.get(menu.parent.id, menu.parent.label) if menu.parent else None
        return {"menu": entries, "exit": menu.exit, "parent": parent, "about": about}

    def last(self) -> Message:
        """Render what asks for the code after the reasons (read mode `reason`)."""
        return {"role": "user", "content": self._render(_LAST, {})}

    def _render(self, block: str, values: dict[str, Any]) -> str:
        template = self._template
        try:
            # As `template.new_context` does, but the globals are gathered once, not per item.
            parent = {**self._globals, **values}
            context = Context(_ENVIRONMENT, parent, template.name, template.blocks)
            return "".join(template.blocks[block](context)).strip()
        except Exception as exc:  # a prompt is a program: anything can go wrong in it
            what = _NO_COLUMN.sub("the item has no column", str(exc))
            raise BadPrompt(f"{self.source}: block {block!r}: {what}") from exc


class Specimen(dict[str, str]):
    """An item that has a title, and the same text in any other field a prompt may name."""

    def __init__(self, text: str) -> None:
        super().__init__(title=text)

    def __missing__(self, name: str) -> str:
        """Have every field."""
        return self["title"]


class Fields(dict[str, str]):
    """An item's fields; a column that items may have is empty where this one has nothing in it."""

    def __init__(self, fields: Mapping[str, str], columns: Collection[str]) -> None:
        """`columns` are the names that items may have."""
        super().__init__(fields)
        self.columns = columns

    def __missing__(self, name: str) -> str:
        """Be empty for a column, unknown for all else: a typo in a prompt is found."""
        if name in self.columns:
            return ""
        raise KeyError(name)


class Names(dict[str, str]):
    """Node id -> the path to show, in a prompt's language."""

    @classmethod
    def of(cls, nodes: Mapping[str, Node], language: Language) -> Names:
        """Name every node of a taxonomy."""
        return cls({node.id: label_in(node, language, nodes) for node in nodes.values()})

    @cached_property
    def _twice(self) -> frozenset[str]:
        """Last parts that more than one path ends with."""
        seen = Counter(path.rpartition(" > ")[2] for path in self.values())
        return frozenset(name for name, n in seen.items() if n > 1)

    def short(self, node: Node) -> str:
        """Return the last part of a node's path, or all of it where that would be ambiguous."""
        path = self[node.id]
        name = path.rpartition(" > ")[2]
        return path if name in self._twice else name


def label_in(node: Node, language: Language, nodes: Mapping[str, Node]) -> str:
    """Return the node's path in a language, with the plain name where a translation lacks."""
    if language == "en":
        return node.label
    parts = [node.names.get(language, node.name)]
    while node.parent is not None:
        node = nodes[node.parent]
        parts.append(node.names.get(language, node.name))
    return " > ".join(reversed(parts))


def spelled(prompt: Prompt, nodes: Mapping[str, Node]) -> dict[str, str] | None:
    """Return the names that answers are given in (read mode `text`), the exit's under `""`."""
    if prompt.front.read != "text":
        return None
    language = prompt.front.language
    live = [node for node in nodes.values() if not node.deprecated]
    return {"": NONE_IN[language], **{n.id: label_in(n, language, nodes) for n in live}}


# -- files ----------------------------------------------------------------------------------

_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    autoescape=False,  # prompts are text, not HTML
)


def available(name: str = "*") -> list[Prompt]:
    """Return every prompt that ships, by name and version, or those of one name."""
    files = resources.folder("prompts").glob(f"{name}.v*.jinja")
    found = [parse(p.read_text("utf-8"), str(p)) for p in files]
    return sorted(found, key=lambda p: (p.front.name, p.front.version))


def load(ref: str) -> Prompt:
    """Load a prompt by file path, by name (`few-shot.zh`), or by name and version (`...@1`).

    A name without language means English; without version, the newest. Raises `BadPrompt`.
    """
    if ref.endswith(".jinja") or "/" in ref or "\\" in ref:
        try:
            return parse(Path(ref).read_text("utf-8-sig"), ref)
        except OSError as exc:
            raise BadPrompt(f"{ref}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise BadPrompt(f"{ref}: not UTF-8 at byte {exc.start}") from exc
    name, _, version = ref.partition("@")
    for wanted in (name, f"{name}.en") if _NAME.fullmatch(name) else ():
        fits = [p for p in available(wanted) if not version or str(p.front.version) == version]
        if fits:
            return fits[-1]
    known = [p.ref for p in available()]
    names = list(dict.fromkeys(one.partition(".")[0] for one in known))
    near = get_close_matches(name, names, n=1)
    if near and near[0] != name:
        raise BadPrompt(f"no prompt {ref!r}", hint=f"did you mean {near[0]}?")
    raise BadPrompt(
        f"no prompt {ref!r}", hint=f"there are {', '.join(known)}; or give a .jinja file"
    )


def parse(text: str, source: str) -> Prompt:
    """Parse and check a prompt file. Raises `BadPrompt` with the line where it is known."""
    match = _FRONT.match(text)
    if not match:
        raise BadPrompt(
            f"{source}: no front matter",
            hint="a prompt begins with --- lines around name, version and description",
        )
    try:
        front = FrontMatter.model_validate(yaml.safe_load(match[1]))
    except yaml.YAMLError as exc:
        raise BadPrompt(f"{source}: front matter is not YAML: {exc}") from exc
    except ValidationError as exc:
        what = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        raise BadPrompt(f"{source}: front matter: {what}") from exc
    above = match[1].count("\n") + 3  # lines before the body
    try:
        tree = _ENVIRONMENT.parse(match[2])
        unknown = sorted(jinja2.meta.find_undeclared_variables(tree) - _KNOWN)
    except jinja2.TemplateSyntaxError as exc:  # unknown filters and tests, too
        what, hint = str(exc.message), ""
        if what.startswith("No filter named"):
            near = get_close_matches(what.split("'")[1], _ENVIRONMENT.filters, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "only Jinja's own filters are there"
        raise BadPrompt(f"{source}: line {exc.lineno + above - 1}: {what}", hint=hint) from exc
    if unknown:
        raise BadPrompt(
            f"{source}: undefined variable {', '.join(unknown)}",
            hint=f"a prompt may use {', '.join(sorted(_KNOWN))}",
        )
    prompt = Prompt(front=front, text=text, body=match[2], source=source)
    if prompt.item_first and "examples" in front.needs:
        raise BadPrompt(
            f"{source}: layout item-first shows no examples: each would need a menu of its own",
            hint="--examples still helps retrieval; to show them, put the menu first",
        )
    if prompt.decides and not prompt.item_first:
        raise BadPrompt(f"{source}: read: decide is of layout item-first")
    system = () if prompt.item_first else ("system",)
    more = {"reason": (_LAST,), "decide": ("question", "option")}.get(front.read, ())
    for block in (*system, "item", *more):
        if block not in prompt._template.blocks:  # noqa: SLF001
            raise BadPrompt(f"{source}: no block {block!r}")
    _try(prompt)
    return prompt


def _try(prompt: Prompt) -> None:
    """Render once with specimens, so that a broken prompt fails before a run, not in it."""
    nodes = tuple(Node(id=i, name=i, path=("up", i), parent="up") for i in ("one", "two"))
    up = Node(id="up", name="up", path=("up",), children=("one", "two"))
    names = Names({n.id: n.label for n in (up, *nodes)})
    specimen = Specimen("specimen")
    for parent in () if prompt.decides else (None, up):
        menu = Menu(nodes=nodes, codes=("A", "B", "C"), parent=parent)
        shared = prompt.shared(menu, names=names, about="")
        own = prompt.own(specimen, menu, names=names, about="")["content"]
        block, content = ("item", own) if prompt.item_first else ("system", shared[0]["content"])
        missing = [what for what in ("one", "two", "C") if what not in content]
        if missing:
            raise BadPrompt(f"{prompt.source}: block {block!r} does not show the whole menu")
        if prompt.item_first and own.find("specimen") > own.find("one"):
            raise BadPrompt(f"{prompt.source}: layout item-first, but the menu stands first")
    menu = Menu(nodes=nodes, codes=("A", "B", "C"))
    if prompt.decides:
        asked = prompt.question(menu, names=names, about="")
        shown = [prompt.option(node, names)["name"] or "" for node in nodes]
        if not asked["content"] or any(
            wanted not in name for wanted, name in zip(("one", "two"), shown, strict=True)
        ):
            raise BadPrompt(f"{prompt.source}: block 'option' does not show the category's name")
    if prompt.front.read == "reason" and not prompt.last()["content"]:
        raise BadPrompt(f"{prompt.source}: block {_LAST!r} is empty")
    if "specimen" not in prompt.own(specimen, menu, names=names, about="")["content"]:
        raise BadPrompt(f"{prompt.source}: block 'item' does not show the item")
