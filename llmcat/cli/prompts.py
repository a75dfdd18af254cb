"""`llmcat prompts`."""

from __future__ import annotations

from llmcat.cli.options import parser as make_parser
from llmcat.cli.options import settings

__all__ = ["command"]


EPILOG = """\
examples:
  llmcat prompts list
  llmcat prompts show zero-shot > mine.jinja           # a copy to edit: --prompt mine.jinja
  llmcat prompts render mine.jinja "canvas bag" --labels bags,shoes
"""


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    parser = make_parser("prompts", EPILOG)
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|render")
    actions.add_parser("list", help="the prompts that ship")
    shown = actions.add_parser("show", help="the text of one prompt")
    shown.add_argument("prompt", help="name, name@version or .jinja file")
    render = actions.add_parser("render", help="the messages a model would see for one item")
    render.add_argument("prompt", help="name, name@version or .jinja file")
    render.add_argument("item", help="the item's title")
    for name, what in {
        "labels": "the categories, comma-separated",
        "taxonomy": "file with the categories",
        "about": "what the items are",
        "examples": "labelled items for few-shot prompts",
        "select": "fixed or nearest",
        "shots": "how many examples are shown",
    }.items():
        render.add_argument(f"--{name}", help=what, default=None)
    args = parser.parse_args(argv)
    from llmcat.prompting import templates

    if args.action == "list":
        for prompt in templates.available():
            print(f"{prompt.ref:<18} {prompt.front.description}")
        return 0
    if args.action == "show":
        print(templates.load(args.prompt).text, end="")
        return 0
    from llmcat.pipeline import rendered

    for message in rendered.rendered(settings(args), args.item):
        print(f"--- {message['role']} ---\n{message['content']}")
    return 0
