"""The command line: a command's name to its module in this folder, its errors to exit codes.

Exit codes: 0 done; 1 done, but some rows are errors; 2 bad input or usage; 3 no usable engine;
70 a bug of ours; 130 interrupted, resumable. Errors are one line and a hint, never a traceback (set
LLMCAT_TRACEBACK=1 to see one).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from typing import TYPE_CHECKING, Any

from llmcat import __version__
from llmcat.cli.options import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmcat.errors import LlmcatError

__all__ = ["main", "script"]

DONE, BAD_INPUT, BUG, INTERRUPTED = 0, 2, 70, 130  # 70: EX_SOFTWARE of sysexits.h

ELSEWHERE = {"review", "serve"}
"""Commands that another package of ours offers."""

AS_JSON = {"classify", "fallback"}
"""Commands that say how they went as an object, with --json."""

OLD_FLAGS = {"--least": "--min-examples", "--looks": "--interim-looks"}
"""Flags of 0.1 that were no settings, and what they are called now."""

TOP_HELP = """\
usage: llmcat COMMAND [options]

Zero- and few-shot classification with open language models.

commands:
{commands}

  llmcat COMMAND --help says more; llmcat --version says which this is.

first steps:
  echo "red running shoes" | llmcat classify --labels shoes,bags,toys --engine fake
  llmcat classify --file items.csv --taxonomy taxonomy.yaml --base-url http://localhost:8000
  llmcat ab --file labeled.csv --taxonomy taxonomy.yaml --a candidates=8 --b candidates=16
"""


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
    if name == "student" and rest[:1] in (["eval"], ["predict"]):
        from llmcat.cli.student import stands_for

        name, rest = stands_for(rest)
    if level := os.environ.get("LLMCAT_LOG"):
        logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
        logging.getLogger("llmcat").setLevel(level.upper())
    as_json = "--json" in rest and name in AS_JSON
    if as_json:
        rest = [word for word in rest if word != "--json"]
    if name not in ELSEWHERE:
        rest = [_renamed(word) for word in rest]
    command = _command(name)
    if command is None:
        return _unknown(name)
    return _guarded(command, rest, as_json=as_json)


def script() -> None:
    """Run as a program. Interrupted, it ends at once: threads of libraries may still be at work."""
    code = main()
    if code == INTERRUPTED:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _guarded(command: Callable[[list[str]], int], argv: list[str], *, as_json: bool = False) -> int:
    """Run a command; turn what goes wrong into a line and an exit code.

    `as_json`: the line is an object with a stable `error`, and what the command closes with is one.
    """
    from llmcat.errors import LlmcatError, LlmcatNote, LlmcatWarning

    told: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, LlmcatWarning):
            other(message, category, *where, **more)
        elif (text := str(message)) not in told:
            told.add(text)  # a file may be opened more than once
            kind = "note" if issubclass(category, LlmcatNote) else "warning"
            print(f"llmcat: {kind}: {text}", file=sys.stderr)

    if as_json:
        os.environ["LLMCAT_JSON"] = "1"
    other, warnings.showwarning = warnings.showwarning, show
    try:
        code = command(argv)
        sys.stdout.flush()
        return code
    except LlmcatError as exc:
        if os.environ.get("LLMCAT_TRACEBACK"):
            raise
        if as_json:
            _complain_in_json(exc)
        else:
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
        return BUG
    finally:
        warnings.showwarning = other
        os.environ.pop("LLMCAT_JSON", None)


def _complain_in_json(exc: LlmcatError) -> None:
    """Print an error as an object: its class is its name, which stays."""
    import json

    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(exc).__name__).lower()
    told = {"error": name, "message": str(exc), "hint": exc.hint, "exit_code": exc.exit_code}
    print(json.dumps(told, ensure_ascii=False), file=sys.stderr)


def _complain(message: str, hint: str) -> None:
    print(f"llmcat: error: {message}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)


def _command(name: str) -> Callable[[list[str]], int] | None:
    """Return a command of ours, or one that another package offers. It is imported only now."""
    from importlib import import_module
    from importlib.metadata import entry_points

    found: Callable[[list[str]], int]
    if name in COMMANDS and name not in ELSEWHERE:
        found = import_module(f"llmcat.cli.{name}").command
        return found
    for point in entry_points(group="llmcat.commands", name=name):
        found = point.load()
        return found
    return None


def _renamed(word: str) -> str:
    """Return a flag's name of today."""
    flag, equals, value = word.partition("=")
    new = OLD_FLAGS.get(flag)
    if new is None and flag.startswith("--"):
        from llmcat.config import RENAMED

        new = RENAMED.get(flag[2:].replace("-", "_"))
        new = new and f"--{new.replace('_', '-')}"
    if new is None:
        return word
    _warn(f"{flag} is called {new} now; the old name works until 0.3")
    return f"{new}{equals}{value}"


def _warn(text: str) -> None:
    print(f"llmcat: warning: {text}", file=sys.stderr)


def _unknown(name: str) -> int:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
    _complain(f"no command {name!r}", hint)
    return BAD_INPUT
