#!/usr/bin/env python3
"""Which wording a model reads best: one after another on development parts, what it adds.

    python eval/wording.py MODEL --data FOLDER [--items 64] [--keep FOLDER]
                           [--only NAME,...] [--set-coverage NAME,...] [--write NAME]

Each wording is a prompt file made here from the default by one change. All read the same 8
candidates of the same items, in the same orders, so rows are compared item by item: the table has
what the model takes off retrieval's log loss at its best weight, and the difference to the default
wording with its standard error. The place prior is each wording's own mean answer. Answers are
kept in --keep. Development parts: see evidence.py.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import sys
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from evidence import Part, parts, table, write_there
from real import ROOT

from llmcat import config
from llmcat.engines import Served
from llmcat.engines.transformers_local import TransformersLocal
from llmcat.evidence.gather import Asked, Gathered
from llmcat.evidence.place_prior import estimate
from llmcat.evidence.pool import READER, Pool
from llmcat.pipeline.duplicates import Forgetful
from llmcat.pipeline.loop import Tally
from llmcat.pipeline.session import Session
from llmcat.prompting.templates import DEFAULT, load
from llmcat.records import NONE
from llmcat.retrieval.scorers import Retriever, Signals, encoders_of

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
CANDIDATES, DIGITS = 8, "123456789"
ITEM = """{% for name, text in item.items() %}
{{ name | capitalize }}: {{ text }}
{% endfor %}"""
QUESTION = "Which category fits this item?"
LAST = 'Answer with one {{ "letter" if exit | length == 1 else "code" }}.'
SHORT = "{% if 0 < entry.description | length <= 100 %}: {{ entry.description }}{% endif %}"


def options(line: str = "{{ entry.code }}. {{ entry.name }}" + SHORT, exit_: str = "") -> str:
    """Return a menu with such lines."""
    exit_ = exit_ or "{{ exit }}. None of these"
    return f"{{% for entry in menu %}}\n{line}\n\n{{% endfor %}}\n{exit_}"


RULES = """- Decide by what the item itself is, not by single words in its text.
- An accessory, a spare part or a refill is not the thing it is made for.
- If no category fits, answer {{ exit }}."""
PLAIN = f"{ITEM}\n\n{QUESTION}\n{options()}\n\n{LAST}"
WORDINGS: dict[str, str] = {
    "default": PLAIN,
    "digits": PLAIN.replace('"letter" if exit | length == 1 else "code"', '"number"'),
    "brackets": PLAIN.replace("{{ entry.code }}.", "({{ entry.code }})").replace(
        "{{ exit }}.", "({{ exit }})"
    ),
    "paths": PLAIN.replace("{{ entry.name }}", "{{ entry.label }}"),
    "names only": PLAIN.replace(SHORT, ""),
    "rules": PLAIN.replace(LAST, f"{RULES}\n{LAST}"),
    "ends in Answer:": PLAIN.replace(LAST, "Answer:"),
    "question last": f"{ITEM}\n\nCategories:\n{options()}\n\n{QUESTION} {LAST}",
    "item twice": f"{PLAIN.removesuffix(LAST)}Again, the item:\n{ITEM}\n\n{LAST}",
    "all twice": f"{PLAIN}\n\n{PLAIN}",
    "system": PLAIN,
    "chinese": "",
}
"""Block `item` of each wording."""
SYSTEM = "{% block system %}\nYou are an expert who puts items into categories.\n{% endblock %}\n"


@dataclass
class Reader(TransformersLocal):
    """The engine, kept open from wording to wording; `digits` gives it 1 to 9 for codes."""

    digits: bool = False
    _served: Served | None = field(default=None, repr=False)

    def _open(self) -> Served:
        if self._served is None:
            self._served = super()._open()
        if self.digits:
            self._chat.codes |= {d: self._chat.encode(d)[-1] for d in DIGITS}
            return replace(self._served, alphabet=tuple(DIGITS))
        return self._served

    async def close(self) -> None:
        """Stay open for the next wording."""


def prompt_file(name: str, folder: Path) -> str:
    """Write a wording down as a prompt file, and return its path."""
    if name in {"default", "chinese"}:
        default = load(DEFAULT if name == "default" else DEFAULT.replace(".en", ".zh"))
        return default.front.name
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:8]}.jinja"
    front = "---\nname: trial\nversion: 1\ndescription: a trial\nlayout: item-first\n---\n"
    system = SYSTEM if name == "system" else ""
    path.write_text(f"{front}{system}{{% block item %}}\n{WORDINGS[name]}\n{{% endblock %}}\n")
    return str(path)


async def ask(
    part: Part, taxonomy: Path, name: str, engine: Reader, args: argparse.Namespace
) -> tuple[dict[int, Asked], float]:
    """Return what the model says of a part's items under a wording, and the tokens an item."""
    with tempfile.TemporaryDirectory() as folder:
        prompt = prompt_file(name, Path(folder))
        text = load(prompt).text
        key = [part.name, part.taxonomy.digest, text, args.model.name, args.items,
               name == "digits"]  # fmt: skip
        kept_in = args.keep / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.json"
        if kept_in.exists():
            found = json.loads(kept_in.read_text())
        else:
            settings = config.load(
                taxonomy=str(taxonomy), engine="transformers_local", model=str(args.model),
                prompt=prompt, candidates=CANDIDATES,
            )  # fmt: skip
            engine.digits = name == "digits"
            session = await Session.open(settings, engine=engine, prior=[0.0] * (CANDIDATES + 1))
            kept, tally = Gathered(), Tally()
            session = session.keeping(kept)
            async for _ in session.classify(part.items, memory=Forgetful(), tally=tally):
                pass
            found = {
                "tokens": tally.usage.prompt / len(part.items),
                "asked": {
                    row: [one.chosen, [[places, said.tolist()] for places, said in one.turns]]
                    for row, one in kept.asked.items()
                    if one is not None
                },
            }
            kept_in.write_text(json.dumps(found))
    answers = {
        int(row): Asked(tuple(chosen), tuple((tuple(p), np.array(said)) for p, said in turns))
        for row, (chosen, turns) in found["asked"].items()
    }
    return answers, found["tokens"]


@dataclass(frozen=True)
class Heard:
    """What a wording is worth on a part.

    `taken`: nats it takes off retrieval's log loss at its best weight, and of each item at that
    weight, shape `(items,)`; `alone` and `pooled`: percent right, the latter at the default weight.
    """

    taken: float
    each: np.ndarray[Any, Any]
    alone: float
    pooled: float
    tokens: float


def worth(part: Part, signals: Signals, asked: dict[int, Asked], tokens: float) -> Heard:
    """Measure a wording on a part's items that have a category."""
    prior = estimate([one.turns[0][1] for one in asked.values()])
    heard = [asked[i.row].heard(prior) if i.row in asked else None for i in part.items]
    known = np.flatnonzero(part.columns >= 0)
    gold = part.columns[known]

    def log_p(weight: float) -> Any:
        return Pool(weights={READER: weight}).labels(signals, heard)[known]

    rows = np.arange(len(known))
    losses = [-log_p(w)[rows, gold] for w in WEIGHTS]
    best = min(losses, key=lambda loss: float(loss.mean()))
    first = [None if h is None else h.columns[int(h.log_p[:-1].argmax())] for h in heard]
    alone = np.mean([first[i] == part.columns[i] for i in known])
    pooled = (log_p(Pool().weight(READER)).argmax(axis=1) == gold).mean()
    each = losses[0] - best
    return Heard(float(each.mean()), each, float(100 * alone), float(100 * pooled), tokens)


async def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--keep", type=Path, default=Path(".cache") / "wording")
    parser.add_argument("--only", default=",".join(WORDINGS))
    parser.add_argument("--set-coverage", default="examples,shop32,banking77")
    parser.add_argument("--write", default="")
    args = parser.parse_args()
    args.keep.mkdir(parents=True, exist_ok=True)
    engine = Reader(str(args.model), dtype="float32", batch=8)
    found = {one.name: one for one in parts(args.data) if one.name in args.sets.split(",")}
    here: dict[str, tuple[Part, Path, Signals]] = {}
    for name, one in found.items():
        one.items = [row for row in one.items if row["label"] != NONE][: args.items]
        taxonomy = one.taxonomy if isinstance(one.taxonomy, Path) else write_there(one)
        part = Part.of(one)
        here[name] = part, taxonomy, Retriever(part.taxonomy, encoders_of("auto"))(part.items)
    lines, first = [], dict[str, Heard]()
    for wording in args.only.split(","):
        cells = [wording]
        for name, (part, taxonomy, signals) in here.items():
            heard = worth(part, signals, *await ask(part, taxonomy, wording, engine, args))
            first.setdefault(name, heard)
            step = heard.each - first[name].each
            error = step.std(ddof=1) / len(step) ** 0.5
            against = f" ({step.mean():+.3f} ± {error:.3f})" if lines else ""
            cells += [f"{heard.taken:.3f}{against}", f"{heard.alone:.0f}, {heard.pooled:.0f}",
                      f"{heard.tokens:.0f}"]  # fmt: skip
        lines.append(cells)
        print(" | ".join(cells), file=sys.stderr, flush=True)
    heads = ["wording"]
    for name in here:
        heads += [f"{name} ({args.items}): nats", "alone, pooled %", "tokens"]
    text = "\n".join(table(heads, lines))
    print(text)
    if args.write:
        keep(text, args)


def keep(text: str, args: argparse.Namespace) -> None:
    """Write the table down with what made it."""
    flags = f"--set-coverage {args.sets} --items {args.items}"
    flags += f" --only '{args.only}'" if args.only != ",".join(WORDINGS) else ""
    head = f"# Wordings read by {args.model.name}: development parts\n\n"
    head += f"    python eval/wording.py {args.model.name} --data FOLDER {flags}\n\n"
    head += f"{datetime.now(UTC).date().isoformat()}, {os.cpu_count()} CPU cores, "
    head += f"{platform.machine()}\n\n"
    head += (
        "Nats that the model takes off retrieval's log loss at its best weight (the difference to "
        "the first line, ± its\nstandard error); how many it has right alone (place prior off) and "
        "pooled with default weights; prompt tokens.\n\n"
    )
    (ROOT / "eval" / "results" / f"{args.write}.md").write_text(f"{head}{text}\n")


if __name__ == "__main__":
    asyncio.run(main())
