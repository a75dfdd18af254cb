"""One frozen set of settings: flags over `LLMCAT_*` environment over `llmcat.toml`.

Secrets come from the environment only and are masked wherever settings are shown.
"""

from __future__ import annotations

import os
import tomllib
import warnings
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from llmcat.errors import BadConfig, LlmcatWarning
from llmcat.records import MOST_LABELS

__all__ = ["CONFIG_FILE", "MULTI", "RENAMED", "RunConfig", "load", "say_renamed"]

CONFIG_FILE = "llmcat.toml"
MULTI = "menu"
"""How a model is asked for several labels where nobody says (`--multi` without a value)."""
ONE_LABEL = (
    "calibration", "accept_precision", "by_branch", "back_off", "set_coverage", "skip_sure",
)  # fmt: skip
"""Settings that only mean something where an item has one label."""


RENAMED = {
    "known": "primary_labelled",
    "max_asks": "max_items",
    "near": "cold_threshold",
    "sets": "set_coverage",
    "unlike": "max_distance",
}
"""Settings of 0.1, and what they are called now."""


def say_renamed(old: str, new: str) -> None:
    """Warn that something is called otherwise now."""
    text = f"{old} is called {new} now; the old name works until 0.3"
    warnings.warn(text, LlmcatWarning, stacklevel=2)


def _way(value: Any) -> Any:
    """Read a yes or no as the usual way, or as none."""
    said = str(value).lower()
    if said in {"true", "1", "yes"}:
        return MULTI
    return "" if said in {"false", "0", "no"} else value


class RunConfig(BaseSettings):
    """The settings of a run. Every field is a flag, an environment variable and a key.

    Times are in seconds, prices in the currency you think in.
    """

    model_config = SettingsConfigDict(
        env_prefix="LLMCAT_", extra="forbid", frozen=True, toml_file=CONFIG_FILE
    )

    file: str = Field(
        "-",
        description="items: files, folders or patterns; .jsonl, .json, .csv, .tsv, .txt, .xlsx, "
        ".parquet, also .gz, .zst; - for stdin",
    )
    out: str = Field(
        "",
        description="predictions: .jsonl, .csv, .tsv, .xlsx, .parquet, also .gz, .zst; a folder "
        "(name it with a / at the end) for one file per input; - for stdout",
    )
    input_format: Literal["", "jsonl", "csv", "tsv", "txt", "parquet", "xlsx"] = Field(
        "", description="format of the items where the name does not tell"
    )
    delimiter: str = Field(
        "",
        description="what separates columns: comma, semicolon, tab, bar, or the character itself",
    )
    encoding: str = Field("", description="how text is encoded, e.g. gb18030, cp1252, utf-16")
    escape: str = Field("", max_length=1, description="what stands before a quote inside quotes")
    sheet: str = Field("", description="the sheet of a workbook that is read")
    out_format: Literal["jsonl", "csv", "tsv", "parquet"] = Field(
        "jsonl", description="format of the files in a predictions folder"
    )
    since: str = Field(
        "",
        description="predictions of an earlier run: what has not changed is copied, not asked",
    )
    keep: str = Field(
        "",
        description="which of the input's columns stand in what is written: all, none, or names, "
        "comma-separated (default: all in .csv, .tsv and .xlsx, none in .jsonl and .parquet)",
    )
    bom: bool = Field(False, description="begin a .csv with a byte-order mark, as Excel likes it")
    text: str = Field("", description="text columns, comma-separated; the first is the title")
    id: str = Field("id", description="column with the item's id")
    image: str = Field(
        "", description="column with an image: address or file (beside the items), or a list"
    )
    label: str = Field("label", description="column with the known label, copied to `gold`")

    redact: str = Field(
        "", description="mask personal data before anything else sees it: all, or email,phone,..."
    )

    labels: str = Field("", description="the categories themselves, comma-separated")
    taxonomy: str = Field("", description="the categories: .yaml, .json, .jsonl, .csv, .txt")
    rules: str = Field(
        "",
        description="fixed rules before the model (.yaml): always or never a category, one a group",
    )
    multi: Annotated[Literal["", "menu", "each"], BeforeValidator(_way)] = Field(
        "",
        description="an item may have several labels: the model reads one menu of candidates "
        "(menu), or each candidate by itself (each)",
    )
    ordered: bool = Field(
        False,
        description="the categories are the levels of a scale, lowest first: each row gets its "
        "expected level",
    )
    about: str = Field("", description="what the items are, in a few words, for the prompt")
    menu_size: int = Field(
        MOST_LABELS, ge=2, le=MOST_LABELS, description="most labels offered in one question"
    )

    orders: str = Field(
        "1",
        pattern=r"^(auto|[1-9]\d?)$",
        description="in how many orders a menu is offered, the answers averaged; auto: in 4, but "
        "only where the first answer is unsure",
    )

    prompt: str = Field(
        "",
        description="prompt by name, name@version or .jinja file (default: the artifact's, else "
        "zero-shot-item-first; zero-shot for the demo model, which was trained on it)",
    )
    examples: str = Field(
        "", description="labelled items: for retrieval, and for few-shot prompts to show"
    )
    select: Literal["fixed", "nearest"] = Field("fixed", description="which examples are shown")
    shots: int = Field(8, ge=1, le=64, description="how many examples are shown")
    candidates: int = Field(
        8,
        ge=2,
        le=MOST_LABELS,
        description="with retrieval, how many categories the model reads of each item",
    )
    sources: str = Field(
        "",
        description="what retrieval goes by: auto, or a list of lexical, multilingual, minilm, "
        "embedding models by name, folder or address (http://localhost:8001: vLLM and others); "
        "none: the model reads all categories (default: auto with prompts that put the item "
        "first, and with --engine retriever)",
    )
    source_category: str = Field(
        "", description="column with the category that the supplier gave the item"
    )
    group: str = Field(
        "", description="column with what items have in common that must not be parted (variants)"
    )
    reference: str = Field(
        "",
        description="items that show which places of a menu the model prefers (default: those of "
        "the shipped examples)",
    )
    skip_sure: bool = Field(
        False,
        description="do not ask the model where retrieval is sure, by a line drawn on labels (in "
        "--artifact)",
    )
    artifact: str = Field(
        "",
        description="what llmcat tune or calibrate wrote: weights of the sources, the model's "
        "place prior, calibration",
    )

    seed: int = Field(0, description="seed for the choice of examples, and of a sample")

    engine: Literal[
        "",
        "vllm_http",
        "vllm_local",
        "transformers_local",
        "openai",
        "systemone",
        "decisions",
        "litellm",
        "demo",
        "student",
        "retriever",
        "fake",
    ] = Field(
        "",
        description="vllm_http (the default with --base-url), vllm_local and transformers_local "
        "(--model in this process), openai (any OpenAI-compatible server), litellm (any provider; "
        "the default with --model provider/name), systemone and decisions (a server with a "
        "decision model: docs/decision-models.md), demo (the small demo model), student (a trained "
        "one: --model FOLDER), retriever (no model: retrieval alone) or fake",
    )
    engine_option: str = Field("", description="NAME=VALUE,... for the engine")
    base_url: str = Field("", description="address of the model server", pattern=r"^[^@\s]*$")
    model: str = Field(
        "",
        description="name of the served model, empty if there is only one; for litellm "
        "provider/name, or several with commas between: each steps in for those before it",
    )
    api_key: SecretStr = Field(SecretStr(""), description="key for the model server")
    constraint: Literal["outlines", "tokens"] = Field(
        "outlines", description="how answers are kept on the menu"
    )
    mass_sample: int = Field(
        16, ge=0, description="measure the label mass on one request in this many; 0 for never"
    )
    concurrency: int = Field(64, ge=1, le=4096, description="most requests in flight")
    timeout: float = Field(
        120.0, gt=0, allow_inf_nan=False, description="seconds in which a server answers nothing"
    )
    retry_seconds: float = Field(
        60.0, ge=0, description="seconds to wait for a server that is away"
    )
    price_per_hour: float = Field(0.0, ge=0, description="price of the server per hour, for costs")

    calibration: str = Field("", description="file that llmcat calibrate wrote")
    max_requests: int = Field(0, ge=0, description="most requests of this session")
    max_tokens: int = Field(
        0, ge=0, description="most tokens of this session, read and generated together"
    )
    min_confidence: float = Field(
        0.0, ge=0, lt=1, description="less sure rows are for review; without labels no promise"
    )
    accept_precision: float = Field(
        0.0, ge=0, lt=1, description="accept what is at least so often right, the rest is to review"
    )
    risk: float = Field(
        0.05, gt=0, lt=1, description="the chance that the line is drawn too low, at most"
    )
    by_branch: bool = Field(False, description="a line of its own for each branch of the tree")
    back_off: bool = Field(
        False, description="answer an inner category where the leaf is not sure enough"
    )
    set_coverage: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="give each item a set of labels, so that this share of the sets holds the "
        "right label",
    )

    limit: int = Field(
        0,
        ge=0,
        description="only the first N items (eval, ab: a random sample of N, by the seed); 0 for "
        "all",
    )

    primary: str = Field(
        "", description="the trained classifier: a student's folder, or a server's address"
    )
    primary_url: str = Field(
        "", description="server that does an encoder student's work: vLLM's .../classify"
    )
    primary_labelled: str = Field(
        "",
        description="labelled items for a primary that is not a student; best those that it was "
        "not trained on",
    )
    features: str = Field(
        "tfidf",
        description="what items are compared by: tfidf, or a sentence-transformers model by name "
        "or folder",
    )
    max_distance: float = Field(
        0.98,
        gt=0,
        le=1,
        description="ask about what is farther from the training items than this share of them",
    )
    cold_threshold: float = Field(
        0.2,
        gt=0,
        le=1,
        description="ask where the chance of a category without examples is at least this",
    )
    max_items: int = Field(
        0, ge=0, description="ask about at most N items, where it changes most; 0: no bound"
    )
    max_cost: float = Field(
        0.0, ge=0, description="spend at most this on requests, where it changes most; 0: no bound"
    )
    store: str = Field("labels.sqlite", description="the label store")
    keep_text: bool = Field(
        False, description="keep items' texts in the label store, not only their hashes"
    )

    runs: str = Field(
        "runs",
        description="folder of evaluation runs: their registry, their results, and the answers "
        "that are not asked for twice",
    )

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, given: Any) -> Any:
        """Read what 0.1 called otherwise; a warning says the new name."""
        for old in RENAMED.keys() & given.keys():
            say_renamed(old, new := RENAMED[old])
            given.setdefault(new, given.pop(old))
        return given

    @model_validator(mode="after")
    def _one_label(self) -> Self:
        """Refuse what has no meaning where an item may have several labels."""
        if self.multi and (given := [n for n in ONE_LABEL if getattr(self, n)]):
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(f"{names} is for items with one label, and --multi gives several")
        if self.ordered and (self.multi or self.orders != "1"):
            raise ValueError(
                "--ordered gives an item one level, and offers all in their order: leave out "
                + ("--multi" if self.multi else "--orders")
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))


class _Given(RunConfig):
    """Settings that are given, and nothing else."""

    model_config = SettingsConfigDict(toml_file=None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given alone."""
        return (init_settings,)


def load(*, trust_env: bool = True, **flags: Any) -> RunConfig:
    """Merge flags, environment and file into settings. Raises `BadConfig` naming every problem.

    Without `trust_env` environment and file are not read.
    """
    path = Path(CONFIG_FILE)
    if trust_env and path.is_file():
        try:
            keys = tomllib.loads(path.read_text("utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as exc:
            raise BadConfig(f"{CONFIG_FILE}: {exc}") from exc
        if any(key.lower() == "api_key" for key in keys):
            raise BadConfig(
                f"{CONFIG_FILE}: api_key does not belong in a file",
                hint="set the environment variable LLMCAT_API_KEY",
            )
        _check_names(keys)
    for old, new in RENAMED.items() if trust_env else ():
        if (value := os.environ.get(f"LLMCAT_{old.upper()}")) is not None:
            say_renamed(f"LLMCAT_{old.upper()}", f"LLMCAT_{new.upper()}")
            flags.setdefault(new, value)
    # Categories given by a flag replace those of a lower source, however these are given.
    if "labels" in flags or "taxonomy" in flags:
        flags = {"labels": "", "taxonomy": "", **flags}
    try:
        return RunConfig(**flags) if trust_env else _Given(**flags)
    except ValidationError as exc:
        problems = [_told(e["loc"], e["msg"]) for e in exc.errors()]
        raise BadConfig("; ".join(problems), hint="see --help") from exc


def _check_names(keys: Collection[str]) -> None:
    """Raise `BadConfig` for what llmcat.toml sets and nothing is called."""
    known = {*RunConfig.model_fields, *RENAMED}
    lost = [key for key in keys if key.lower() not in known]
    if lost:
        near = get_close_matches(lost[0].lower(), known, n=1)
        hint = f"did you mean {near[0]}?" if near else "llmcat classify --help names the settings"
        raise BadConfig(f"{CONFIG_FILE}: no setting is called {lost[0]!r}", hint=hint)


def _told(where: tuple[int | str, ...], what: str) -> str:
    """Return one problem in words: a setting's name where it is about one, and what is wrong."""
    what = what.removeprefix("Value error, ")
    return f"{'.'.join(map(str, where))}: {what}" if where else what
