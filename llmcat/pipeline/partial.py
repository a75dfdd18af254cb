"""What a run has answered so far, as a file: the run itself is left as it is and can go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmcat.config import RunConfig
from llmcat.errors import BadConfig, InputError, JournalError
from llmcat.files.opened import bare
from llmcat.files.sources import fingerprint, is_stream
from llmcat.pipeline.file_run import columns_of
from llmcat.pipeline.journal import check_writable, is_folder, journal_path, record_of
from llmcat.pipeline.read_back import leave_columns
from llmcat.pipeline.tables_out import kept_of
from llmcat.pipeline.writers import export

__all__ = ["Partial"]


class Partial:
    """The rows of a run that are there: `rows` complete ones in `journal`."""

    def __init__(self, out: str) -> None:
        """Find them. Raises `JournalError` where no run wrote to `out`, or none is left to read."""
        self.out = Path(out)
        found = record_of(self.out)
        if found is None:
            raise JournalError(f"{out}: no run of llmcat classify or fallback writes there")
        self.record: dict[str, Any] = found
        self.done = self.record["status"] == "done"
        self.journal = journal_path(self.out)
        try:
            self.config = RunConfig.model_validate(self.record["about"]["settings"])
            with self.journal.open("rb") as lines:
                self.rows = sum(line.endswith(b"\n") for line in lines)
        except (KeyError, ValidationError) as exc:
            raise JournalError(f"{out}: an earlier llmcat wrote this run") from exc
        except FileNotFoundError as exc:
            raise JournalError(f"{out} is finished: it is the file itself") from exc
        if self.done and self.config.keep not in {"", "none"}:
            raise JournalError(f"{out} is finished: it is the file itself")

    def usual(self) -> str:
        """Return where the rows go when nothing is said."""
        out = self.out
        if is_folder(str(out)) or out.is_dir():
            return str(out.with_name(f"{out.name}.partial.{self.config.out_format}"))
        stem = Path(bare(out.name)).stem
        return str(out.with_name(f"{stem}.partial{out.name.removeprefix(stem)}"))

    def write(self, to: str, keep: str = "") -> None:
        """Write the rows. `keep` is the setting; empty, it is the run's.

        Raises `JournalError`, or `InputError` where the items have changed since.
        """
        if is_folder(to):
            raise BadConfig("--out: a file, not a folder")
        config = self.config.model_copy(update={"out": to, "keep": keep or self.config.keep})
        files = config.file.split("\n")
        check_writable(to, [*files, str(self.journal), str(self.out)])
        kept = kept_of(config, files, columns_of(config), stream=is_stream(config.file))
        if kept is not None and fingerprint(files)[0] != self.record["identity"].get("input"):
            raise InputError(
                f"{files[0]}: the items have changed since the run",
                hint="--keep none leaves them out",
            )
        export(self.journal, Path(to), {Path(to): self.rows}, kept)
        leave_columns(to, self.config)
