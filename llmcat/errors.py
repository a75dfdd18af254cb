"""Every error llmcat raises. Foreign exceptions become one of these at the edge, `from exc`.

LlmcatError
├── InputError              what you gave us (exit 2)
│   ├── BadItem             one row; becomes an error row, never ends a run
│   ├── BadTaxonomy         all problems at once, with lines
│   ├── BadPrompt
│   └── BadConfig
├── EngineError             the model's side (exit 3)
│   ├── EngineTimeout       retryable
│   ├── EngineBusy          retryable; may say how long to wait
│   ├── EngineDown          retryable; ends the run once retries are used up
│   ├── EngineRefused       this request will never work
│   │   └── Undecided       it was answered: the model cannot tell
│   ├── EngineUnsupported   this engine cannot do what was asked
│   └── ConstraintIgnored   an answer outside the menu: nothing it says can be trusted
└── JournalError            the output file (exit 2)
    └── RunMismatch         the output belongs to another run

LlmcatWarning is no error: answers that came, and are likely worth little.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

__all__ = [
    "SHOWN",
    "BadConfig",
    "BadItem",
    "BadPrompt",
    "BadTaxonomy",
    "ConstraintIgnored",
    "EngineBusy",
    "EngineDown",
    "EngineError",
    "EngineRefused",
    "EngineTimeout",
    "EngineUnsupported",
    "InputError",
    "JournalError",
    "LlmcatError",
    "LlmcatNote",
    "LlmcatWarning",
    "RunMismatch",
    "Undecided",
    "in_python",
]


class LlmcatError(Exception):
    """Base of all llmcat errors.

    `hint` says what to do about it, `exit_code` what the command line returns.
    """

    exit_code = 2
    hint: str = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep the message and, where it is known, what to do about it."""
        super().__init__(message)
        if hint:
            self.hint = hint


@contextlib.contextmanager
def in_python() -> Iterator[None]:
    """Let errors speak of parameters where they spoke of flags: who is told calls from Python."""
    try:
        yield
    except LlmcatError as exc:
        exc.args = (_parameters(str(exc)),)
        exc.hint = _parameters(exc.hint)
        raise


def _parameters(text: str) -> str:
    """Return text with `--base-url http://x` as `base_url="http://x"`, and bare flags as names."""

    def spelled(match: re.Match[str]) -> str:
        if match["command"]:
            return match["command"]
        name, value = match["name"].replace("-", "_"), match["value"]
        return f'{name}="{value}"' if value else name

    return FLAG.sub(spelled, text)


class InputError(LlmcatError):
    """Something given by the user cannot be used."""


class BadItem(InputError):
    """One row cannot be used. The run goes on; the row says why."""


FLAG = re.compile(
    r"(?P<command>`?llmcat [a-z][^,;()`\n]*?(?=  |[,;()`\n]|$))"
    r"|--(?P<name>[a-z][a-z-]+)(?: (?P<value>\S+?)(?=  |\)|\n|$))?"
)
"""A flag, and what is surely a value behind it; a command line stays one."""
SHOWN = 5
"""Problems that a message lists; an error holds them all."""


class BadTaxonomy(InputError):
    """The categories have problems; `problems` lists each one, with its line."""

    def __init__(self, source: str, problems: list[str], *, hint: str = "") -> None:
        """Join the problems into one message."""
        self.problems = problems
        what = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN + 1 else []
        shown = problems if not more else problems[:SHOWN]
        super().__init__("\n  ".join([f"{source}: {what}", *shown, *more]), hint=hint)


class BadPrompt(InputError):
    """A prompt file cannot be read, parsed or rendered."""


class BadConfig(InputError):
    """A flag, an environment variable or a setting is wrong."""


class EngineError(LlmcatError):
    """The engine could not answer.

    `retryable`: the same request may work later. `patient`: it is worth the whole waiting time.
    `fatal`: no request of this run will work.
    """

    exit_code = 3
    retryable = False
    fatal = False
    patient = False
    retry_after: float = 0.0


class EngineTimeout(EngineError):
    """No answer within the time limit."""

    retryable = True


class EngineBusy(EngineError):
    """The server cannot serve now (429, 5xx); `retry_after` in seconds where it said so."""

    retryable = True

    def __init__(
        self, message: str, *, hint: str = "", retry_after: float = 0.0, patient: bool = False
    ) -> None:
        """Keep the time the server asked us to wait, in seconds, and whether it will recover."""
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        self.patient = patient


class EngineDown(EngineError):
    """Nobody answers at the address."""

    retryable = True
    fatal = True
    patient = True


class EngineRefused(EngineError):
    """The server understood and said no."""

    def __init__(self, message: str, *, hint: str = "", fatal: bool = False) -> None:
        """`fatal` when no other request of this run would be accepted either."""
        super().__init__(message, hint=hint)
        self.fatal = fatal


class Undecided(EngineRefused):
    """The model answered that it cannot tell; who knows more may decide."""


class EngineUnsupported(EngineError):
    """The engine cannot do what was asked."""

    fatal = True


class ConstraintIgnored(EngineError):
    """The engine answered outside the menu, so its constraint is not in force."""

    fatal = True


class JournalError(LlmcatError):
    """The output cannot be written or continued."""


class RunMismatch(JournalError):
    """The output was begun with other settings; `differences` names each one."""

    def __init__(self, path: str, differences: list[str], *, hint: str = "") -> None:
        """Join the differences into one message."""
        self.differences = differences
        super().__init__(
            "\n  ".join([f"{path} was begun by a different run:", *differences]), hint=hint
        )


class LlmcatWarning(UserWarning):
    """Answers came, but they are likely worth little: the text says why, and what to do."""


class LlmcatNote(LlmcatWarning):
    """Nothing is wrong; how something was understood, so that one can say it outright."""
