"""Drafts of categories from YAML and JSON: with all there is to say, or just names within names."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from llmcat.errors import BadTaxonomy
from llmcat.taxonomy.formats import NODE_KEYS, ROW_KEYS, Draft, flag, read_rows, tidy

if TYPE_CHECKING:
    import yaml

__all__ = ["read_tree"]

_TOP_KEYS = {"name", "about", "ordered", "labels"}
_PAIR = re.compile(
    r"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)


def read_tree(
    text: str, suffix: str, source: str, problems: list[str]
) -> tuple[list[Draft], str, bool]:
    """YAML or JSON: `{about, ordered, labels: [{id, name, ..., children: [...]}]}` or the list.

    Returns the drafts, what the items are, and whether the labels are the levels of a scale.
    """
    import yaml

    if suffix == ".json":
        text = _yaml_of_json(text, source)
    loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        root = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 0
        raise BadTaxonomy(source, [f"line {line}: not YAML: {exc.problem}"]) from exc
    except (yaml.YAMLError, RecursionError) as exc:
        raise BadTaxonomy(source, [f"not YAML: {exc}"]) from exc
    about, ordered = "", False
    if isinstance(root, yaml.MappingNode) and _is_natural(root):
        found: list[Draft] = []
        _walk_names(root, None, found, problems)
        return found, "", False
    if isinstance(root, yaml.MappingNode):
        top = _mapping(root, problems)
        problems += [
            f"line {_line(top[key])}: unknown key {key!r}" for key in top if key not in _TOP_KEYS
        ]
        about = _text(top.get("about"), "about", problems)
        if (scale := top.get("ordered")) is not None:
            ordered = flag(_text(scale, "ordered", problems), "ordered", _line(scale), problems)
        root = top.get("labels")
    if isinstance(root, yaml.MappingNode):
        found = []
        _walk_names(root, None, found, problems)
        return found, about, ordered
    if isinstance(root, yaml.SequenceNode) and _are_rows(root):
        rows = ((_line(node), _plain(node)) for node in root.value)
        return read_rows(rows, problems), about, ordered
    if not isinstance(root, yaml.SequenceNode):
        raise BadTaxonomy(
            source,
            [*problems, "expected a list of labels, or `labels:` with one"],
            hint="each label is a name, or {id, name, description, synonyms, children}",
        )
    drafts: list[Draft] = []
    _walk_tree(root, None, drafts, problems, seen=set())
    return drafts, about, ordered


def _yaml_of_json(text: str, source: str) -> str:
    """Check that the text is JSON and return it as YAML, which tells lines.

    YAML is JSON's superset but for tabs between tokens, escaped surrogate pairs and DEL.
    """
    try:
        json.loads(text)
    except json.JSONDecodeError as exc:
        raise BadTaxonomy(source, [f"line {exc.lineno}: not JSON: {exc.msg}"]) from exc
    except RecursionError as exc:
        raise BadTaxonomy(source, ["nested too deeply"]) from exc
    text = text.replace("\t", " ").replace("\x7f", " ")
    return _PAIR.sub(lambda m: m[1] + json.loads(f'"{m[2]}"'), text)


def _walk_tree(
    nodes: yaml.SequenceNode,
    parent: str | None,
    drafts: list[Draft],
    problems: list[str],
    seen: set[int],
) -> None:
    import yaml

    for node in nodes.value:
        line = _line(node)
        if id(node) in seen:
            problems.append(f"line {line}: YAML aliases are not followed")
            return
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            name = tidy(node.value)
            drafts.append(Draft(id=name, name=name, parent=parent, line=line))
            continue
        if not isinstance(node, yaml.MappingNode):
            problems.append(f"line {line}: a label is a name or a mapping, not a list")
            continue
        if _is_named(node):
            _add_named(node, parent, drafts, problems)
            continue
        keys = _mapping(node, problems)
        if "name" not in keys and "label" in keys:
            keys["name"] = keys.pop("label")
        problems += [
            f"line {_line(keys[k])}: unknown key {k!r}" for k in keys if k not in NODE_KEYS
        ]
        name = _text(keys.get("name"), "name", problems)
        draft = Draft(
            id=_text(keys.get("id"), "id", problems) or name,
            name=name,
            parent=parent,
            line=line,
            description=_text(keys.get("description"), "description", problems),
            deprecated=flag(
                _text(keys.get("deprecated"), "deprecated", problems), "deprecated", line, problems
            ),
        )
        draft.synonyms = tuple(_texts(keys.get("synonyms"), "synonyms", problems))
        names = keys.get("names")
        if isinstance(names, yaml.MappingNode):
            draft.names = {
                k: _text(v, f"names.{k}", problems) for k, v in _mapping(names, problems).items()
            }
        elif names is not None:
            problems.append(f"line {_line(names)}: names: expected {{zh: ..., ...}}")
        drafts.append(draft)
        below = keys.get("children")
        if isinstance(below, yaml.SequenceNode):
            _walk_tree(below, draft.id, drafts, problems, seen)
        elif below is not None and not _empty(below):
            problems.append(f"line {_line(below)}: children: expected a list")


def _add_named(
    node: yaml.MappingNode, parent: str | None, drafts: list[Draft], problems: list[str]
) -> None:
    """Add a label that is written by its name: with a description, or with what it holds."""
    ((key, value),) = node.value
    if _scalar(value):
        name, told = tidy(key.value), _text(value, "text", problems)
        drafts.append(Draft(name, name, parent, _line(key), description=told))
    else:
        _walk_names(node, parent, drafts, problems)


def _is_natural(root: yaml.MappingNode) -> bool:
    """Tell whether a mapping is categories by name: `Garden: [Rakes, Spades]`, `rakes: for leaves`.

    One that has a key of ours, or nearly, is something else.
    """
    keys = [str(key.value) for key, _ in root.value]
    ours = {*_TOP_KEYS, "categories", "children"}
    if not keys or any(key in ours or get_close_matches(key, ours, 1, 0.8) for key in keys):
        return False
    return (len(keys) > 1 or not _scalar(root.value[0][1])) and _all_names(root)


def _all_names(node: yaml.Node, above: tuple[int, ...] = ()) -> bool:
    """Tell whether all there is below a node are names and texts, no keys of ours, no loops."""
    import yaml

    if id(node) in above:
        return False
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        keys = {str(key.value) for key, _ in node.value}
        return not keys & {*NODE_KEYS, *ROW_KEYS} and all(
            _all_names(v, above) for _, v in node.value
        )
    if isinstance(node, yaml.SequenceNode):
        return all(_all_names(each, above) for each in node.value)
    return True


def _is_named(node: yaml.MappingNode) -> bool:
    """Tell whether a label is written as `- shoes: worn on feet`, or with what it holds."""
    keys = [str(key.value) for key, _ in node.value]
    return (
        len(keys) == 1
        and keys[0] not in {*NODE_KEYS, "label"}
        and not get_close_matches(keys[0], NODE_KEYS, 1, 0.75)
    )


def _empty(node: yaml.Node) -> bool:
    return _scalar(node) and (node.tag.endswith(":null") or not node.value)


def _scalar(node: yaml.Node) -> bool:
    import yaml

    return isinstance(node, yaml.ScalarNode)


def _walk_names(
    node: yaml.Node, parent: str | None, drafts: list[Draft], problems: list[str]
) -> None:
    """Add the categories that names stand for; a text behind a name describes it.

    Where all names are numbers, they are ids of the names behind them.
    """
    import yaml

    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _walk_names(each, parent, drafts, problems)
        return
    if isinstance(node, yaml.ScalarNode):
        if name := _text(node, "name", problems):
            drafts.append(Draft(_below(parent, name), name, parent, _line(node)))
        return
    numbered = all(str(key.value).isdigit() and _scalar(value) for key, value in node.value)
    numbers = all(_scalar(v) and str(v.value).isdigit() for _, v in node.value)
    for key, value in node.value:
        if numbers and not numbered:  # a model's label2id
            drafts.append(Draft(tidy(value.value), tidy(key.value), parent, _line(key)))
            continue
        name, text = tidy(key.value), _text(value, "text", problems) if _scalar(value) else ""
        if numbered:
            drafts.append(Draft(name, text, parent, _line(key)))
            continue
        draft = Draft(_below(parent, name), name, parent, _line(key), description=text)
        drafts.append(draft)
        if not _scalar(value):
            _walk_names(value, draft.id, drafts, problems)


def _below(parent: str | None, name: str) -> str:
    """Return the id of a category without one: its path."""
    return name if parent is None else f"{parent} > {name}"


def _are_rows(root: yaml.SequenceNode) -> bool:
    """Tell whether a list is flat rows, which name their parents or paths."""
    import yaml

    keys: set[str] = set()
    for node in root.value:
        if not isinstance(node, yaml.MappingNode):
            return False
        keys |= {str(key.value) for key, _ in node.value}
    return bool(keys & {"parent", "parent_id", "path"}) and "children" not in keys


def _plain(node: yaml.Node) -> dict[str, Any]:
    """Return a mapping's scalars and lists of them as text; null is left out."""
    found: dict[str, Any] = {}
    for key, value in node.value:
        texts = _texts(value, str(key.value), [])
        found[str(key.value)] = texts if not _scalar(value) else texts[0] if texts else ""
    return found


def _mapping(node: yaml.MappingNode, problems: list[str]) -> dict[str, yaml.Node]:
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if str(key.value) in found:
            problems.append(f"line {_line(key)}: key {key.value!r} stands twice")
        found[str(key.value)] = value
    return found


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _text(node: yaml.Node | None, key: str, problems: list[str]) -> str:
    """Return a scalar as it stands in the file: `00123`, `no` and `1.0` stay what they are."""
    import yaml

    if node is None:
        return ""
    if not isinstance(node, yaml.ScalarNode):
        problems.append(f"line {_line(node)}: {key}: expected text")
        return ""
    return "" if node.tag.endswith(":null") else tidy(node.value)


def _texts(node: yaml.Node | None, key: str, problems: list[str]) -> list[str]:
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return [t for n in node.value if (t := _text(n, key, problems))]
    one = _text(node, key, problems)
    return [one] if one else []
