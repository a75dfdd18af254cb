"""The command line: arguments in, exit codes out. What a command does is done elsewhere.

Exit codes: 0 done; 1 done, but some rows are errors; 2 bad input or usage; 3 no usable engine;
130 interrupted, resumable. Errors are one line and a hint, never a traceback (set
LLMCAT_TRACEBACK=1 to see one).
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from llmcat import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]

DONE, SOME_ERRORS, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

COMMANDS = {
    "init": "write a starter project: settings, categories, a few items",
    "classify": "put the items of a file into categories",
    "show": "print a predictions file as a table",
    "prompts": "list the prompts, show one, or render it for an item",
    "doctor": "check the installation, the server and how well they fit",
    "serve": "start a model server: llmcat serve model --model NAME",
}

TOP_HELP = """\
usage: llmcat COMMAND [options]

Zero- and few-shot classification with open language models.

commands:
{commands}

  llmcat COMMAND --help says more; llmcat --version says which this is.

first steps:
  echo "red running shoes" | llmcat classify --labels shoes,bags,toys --engine fake
  llmcat classify --file items.csv --taxonomy taxonomy.yaml --base-url http://localhost:8000
"""

GROUPS: dict[str, tuple[str, ...]] = {
    "items": ("file", "out", "input_format", "out_format", "text", "image", "id", "label", "limit"),
    "categories": ("labels", "taxonomy", "about", "menu_size"),
    "prompt": ("prompt", "examples", "select", "shots", "seed"),
    "engine": (
        "engine", "engine_option", "base_url", "model", "constraint", "mass_sample",
        "concurrency", "timeout", "retry_seconds", "price_per_hour",
    ),
}  # fmt: skip
SHORT = {"file": "-f", "out": "-o"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    name, rest = (argv[0], argv[1:]) if argv else ("", [])
    if name in {"", "-h", "--help", "help"}:
        listing = "\n".join(f"  {c:<10} {what}" for c, what in COMMANDS.items())
        print(TOP_HELP.format(commands=listing), end="", file=sys.stdout if name else sys.stderr)
        return DONE if name else BAD_INPUT
    if name in {"-V", "--version"}:
        print(f"llmcat {__version__}")
        return DONE
    command = _HANDLERS.get(name) or _outside(name)
    if command is None:
        print(
            f"llmcat: error: no command {name!r}\n  hint: there are {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return BAD_INPUT
    return _guarded(command, rest)


def _guarded(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run a command; turn what goes wrong into a line and an exit code."""
    from llmcat.errors import LlmcatError

    try:
        code = command(argv)
        sys.stdout.flush()
        return code
    except LlmcatError as exc:
        if os.environ.get("LLMCAT_TRACEBACK"):
            raise
        _complain(str(exc), exc.hint)
        return exc.exit_code
    except KeyboardInterrupt:
        _complain("interrupted", "")
        return INTERRUPTED
    except BrokenPipeError:  # `llmcat ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as exc:  # standard output on a full disk, say
        if os.environ.get("LLMCAT_TRACEBACK"):
            raise
        _complain(f"{exc.filename or 'standard output'}: {exc.strerror or exc}", "")
        return BAD_INPUT
    except Exception as exc:
        if os.environ.get("LLMCAT_TRACEBACK"):
            raise
        _complain(
            f"internal error: {type(exc).__name__}: {exc}",
            "this is a bug; LLMCAT_TRACEBACK=1 shows where",
        )
        return SOME_ERRORS


def _complain(message: str, hint: str) -> None:
    print(f"llmcat: error: {message}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)


def _outside(name: str) -> Callable[[list[str]], int] | None:
    """Find a command that another package offers."""
    from importlib.metadata import entry_points

    for point in entry_points(group="llmcat.commands", name=name):
        command: Callable[[list[str]], int] = point.load()
        return command
    return None


# -- settings as flags ----------------------------------------------------------------------


def _parser(name: str, epilog: str = "") -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"llmcat {name}",
        description=COMMANDS[name][0].upper() + COMMANDS[name][1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_settings(
    parser: argparse.ArgumentParser, *, leave_out: frozenset[str] = frozenset()
) -> None:
    """Add a flag for every setting but the secrets; what is not given stays unset."""
    from llmcat.config import RunConfig

    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            if name in leave_out:
                continue
            field = RunConfig.model_fields[name]
            flags = [f"--{name.replace('_', '-')}", *([SHORT[name]] if name in SHORT else [])]
            options: dict[str, Any] = {"dest": name, "default": None, "help": field.description}
            choices = [c for c in getattr(field.annotation, "__args__", ()) if isinstance(c, str)]
            if field.annotation is bool:
                options["action"] = "store_true"
            elif name == "engine_option":
                options |= {"action": "append", "metavar": "NAME=VALUE"}
                options["help"] = "NAME=VALUE for the engine; may be repeated"
            elif name == "file":
                options |= {"nargs": "+", "metavar": "FILE"}
            elif choices:
                options["choices"] = [c for c in choices if c]
            else:
                options["metavar"] = name.upper().split("_")[-1]
            if field.default is not False and field.default != "":
                options["help"] += f" (default: {field.default})"
            group.add_argument(*flags, **options)


def _settings(args: argparse.Namespace) -> Any:
    """Merge the flags that were given over environment and file."""
    from llmcat import config

    known = config.RunConfig.model_fields
    flags = {k: v for k, v in vars(args).items() if k in known and v is not None}
    for name, between in (("engine_option", ","), ("file", "\n")):
        if isinstance(flags.get(name), list):
            flags[name] = between.join(flags[name])
    return config.load(**flags)


# -- classify -------------------------------------------------------------------------------

CLASSIFY_EPILOG = """\
examples:
  llmcat classify --file items.csv --labels shoes,bags,toys --base-url http://localhost:8000
  llmcat classify -f items.jsonl -o out.csv --taxonomy taxonomy.yaml --prompt definitions
  llmcat classify --file shards/*.parquet -o labelled/ --out-format parquet --labels a,b,c
  cat titles.txt | llmcat classify --labels shoes,bags,toys > predictions.jsonl

Every flag is also an environment variable (LLMCAT_BASE_URL) and a key of llmcat.toml.
The key of a server stands in LLMCAT_API_KEY only. Run the same command again to go on
after an interruption. Exit codes: 0 done; 1 some rows are errors; 2 bad input;
3 no usable engine; 130 interrupted.
"""


def _classify(argv: list[str]) -> int:
    parser = _parser("classify", CLASSIFY_EPILOG)
    _add_settings(parser)
    parser.add_argument("--preview", action="store_true", help="ask only the first few items "
                        "(--limit, default 20); show prompt, tokens, time and cost")  # fmt: skip
    parser.add_argument("--restart", action="store_true", help="start over instead of going on")
    parser.add_argument("--quiet", action="store_true", help="no progress, no closing line")
    args = parser.parse_args(argv)
    config = _settings(args)
    from llmcat import session, terminal

    session.taxonomy_of(config)  # what needs no engine is checked first
    if config.file == "-" and (sys.stdin is None or sys.stdin.isatty()):
        _complain("no items", "--file FILE, or pipe them in")
        return BAD_INPUT
    if args.preview:
        return terminal.run_preview(config)
    return terminal.run_classify(config, command=argv, restart=args.restart, quiet=args.quiet)


# -- the small commands ---------------------------------------------------------------------


def _show(argv: list[str]) -> int:
    parser = _parser("show")
    parser.add_argument("predictions", help="a predictions file (.jsonl)")
    parser.add_argument(
        "--items", metavar="FILE", default="", help="the items, to show their titles"
    )
    parser.add_argument("--text", metavar="COLUMN", default="", help="the items' title column")
    parser.add_argument("--limit", type=int, default=20, help="how many rows (default: 20)")
    parser.add_argument("--decision", metavar="D", help="only rows with this decision")
    args = parser.parse_args(argv)
    from llmcat import terminal

    return terminal.show(
        args.predictions,
        args.items,
        text=args.text,
        limit=args.limit,
        decision=args.decision,
    )


def _prompts(argv: list[str]) -> int:
    parser = _parser("prompts")
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
    from llmcat import prompts

    if args.action == "list":
        for prompt in prompts.available():
            print(f"{prompt.ref:<18} {prompt.front.description}")
        return DONE
    if args.action == "show":
        print(prompts.load(args.prompt).text, end="")
        return DONE
    from llmcat import session

    for message in session.rendered(_settings(args), args.item):
        print(f"--- {message['role']} ---\n{message['content']}")
    return DONE


def _init(argv: list[str]) -> int:
    parser = _parser("init")
    parser.add_argument("folder", nargs="?", default=".", help="where (default: here)")
    args = parser.parse_args(argv)
    from llmcat import starter

    written = starter.write(args.folder)
    for path in written:
        print(f"wrote {path}")
    print(starter.NEXT_STEPS, end="")
    return DONE


def _doctor(argv: list[str]) -> int:
    parser = _parser("doctor", "Exit codes: 0 all well; 1 warnings only; 3 something must be done.")
    _add_settings(parser, leave_out=frozenset({"out", "limit"}))
    args = parser.parse_args(argv)
    from llmcat import terminal

    return terminal.run_doctor(_settings(args))


_HANDLERS: dict[str, Callable[[list[str]], int]] = {
    "classify": _classify,
    "show": _show,
    "prompts": _prompts,
    "init": _init,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
