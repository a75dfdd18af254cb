"""A fine-tuned encoder of the BERT family, as a scikit-learn classifier of texts.

    EncoderStudent("bert-base-uncased").fit(texts, labels).predict_proba(more)

`model` is a name on the model hub (`bert-base-uncased`, `bert-base-chinese`, `roberta-base`,
`albert-base-v2` ...) or a folder: both go through AutoTokenizer and
AutoModelForSequenceClassification, so a small BERT in a folder takes the same path as
`bert-base-uncased`. A folder with a config and a tokenizer but no weights begins with random ones.

What `save` writes is a plain transformers folder (safetensors, JSON, no pickle) whose `id2label`
are the labels: vLLM serves it as it is (`llmcat serve model --profile classify --model FOLDER`).

This module does not know items, taxonomies or where labels come from.
"""

from __future__ import annotations

import logging
import random
import tempfile
import warnings
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from llmcat.errors import BadConfig, InputError, JournalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["EncoderStudent"]

Array = np.ndarray[Any, Any]

DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",
    "classifier_dropout_prob", "dropout", "attention_dropout", "seq_classif_dropout",
)  # fmt: skip
"""What the families call their dropouts: BERT and RoBERTa, ALBERT, DistilBERT."""
WARMUP, DECAY = 0.1, 0.01
"""Share of the steps in which the rate rises, and weight decay (Devlin et al. 2019, A.2)."""


class EncoderStudent(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A pretrained encoder with a new softmax layer, all of it trained (Devlin et al. 2019, 4.1).

    `epochs` is the most there will be: a share `validation` of the texts, every class in
    proportion, is kept out of training, and once their loss has not fallen for `patience` epochs
    training ends. The best epoch's weights are kept. With no such share, all epochs are run.

    `class_weight`: `balanced` gives every class the same weight in the loss; None takes them as
    they come. Sample weights multiply it. `dropout`: None for the model's own. `max_length`:
    tokens of a text that are read. The same seed gives the same student on the same CPU.

    After `fit`: `classes_`, shape `(classes,)`; `losses_`, the validation loss of each epoch;
    `epochs_`, how many were run; `model_` and `tokenizer_`.
    """

    def __init__(
        self,
        model: str = "bert-base-uncased",
        *,
        epochs: int = 10,
        learning_rate: float = 5e-5,
        batch_size: int = 16,
        dropout: float | None = None,
        patience: int = 2,
        class_weight: Literal["balanced"] | None = "balanced",
        max_length: int = 128,
        validation: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.dropout = dropout
        self.patience = patience
        self.class_weight = class_weight
        self.max_length = max_length
        self.validation = validation
        self.seed = seed

    def fit(
        self, texts: Sequence[str], y: Sequence[Any], sample_weight: Sequence[float] | None = None
    ) -> Self:
        """Train. A text of weight 0 takes no part.

        Raises `InputError` where fewer than two classes have a text that counts, `BadConfig` for
        a model that cannot be had, a setting out of range, or packages that are missing.
        """
        self._check()
        names, index = np.unique(np.asarray(y), return_inverse=True)
        weights = _weights(texts, index, sample_weight)
        counts = weights > 0
        kept = [str(text) for text, taken in zip(texts, counts, strict=True) if taken]
        index, weights = index[counts], weights[counts]
        if len(set(index.tolist())) < 2:  # noqa: PLR2004
            raise InputError("a student needs at least two categories with examples")
        if self.class_weight == "balanced":
            sizes = np.bincount(index, minlength=len(names))
            weights = weights / sizes[index]
        targets = np.zeros((len(kept), len(names)), dtype=np.float32)
        targets[np.arange(len(kept)), index] = weights / weights.mean()
        with _quietly(), _seeded(self.seed):
            self.tokenizer_, self.model_ = self._begin([str(name) for name in names])
            rows = list(zip(kept, targets, strict=True))
            out = _held_out(index, self.validation, self.seed)
            self.losses_: list[float] = self._train(
                [row for row, held in zip(rows, out, strict=True) if not held],
                [row for row, held in zip(rows, out, strict=True) if held],
            )
        self.classes_ = names
        return self

    def predict_proba(self, texts: Sequence[str]) -> Array:
        """Return probabilities, shape `(texts, classes)`, columns as `classes_`."""
        check_is_fitted(self, "model_")
        import torch

        found = np.zeros((len(texts), len(self.classes_)))
        given = [str(text) for text in texts]
        by_length = sorted(range(len(given)), key=lambda i: len(given[i]))  # little padding
        size = 4 * self.batch_size
        self.model_.eval()
        with torch.inference_mode():
            for start in range(0, len(given), size):
                at = by_length[start : start + size]
                batch = self._tokens([given[i] for i in at]).to(self.model_.device)
                logits = self.model_(**batch).logits.double()
                found[at] = logits.softmax(dim=-1).cpu().numpy()
        return found

    def predict(self, texts: Sequence[str]) -> Array:
        """Return the likeliest class of each text."""
        p = self.predict_proba(texts)
        found: Array = self.classes_[p.argmax(axis=1)]
        return found

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as transformers and vLLM read them.

        Raises `JournalError` where the disk does not take them.
        """
        check_is_fitted(self, "model_")
        try:
            with _quietly():
                self.model_.save_pretrained(folder)
                self.tokenizer_.save_pretrained(folder)
        except OSError as exc:
            raise JournalError(f"{folder}: {exc.strerror or exc}") from exc

    @classmethod
    def load(cls, folder: Path, params: Mapping[str, Any] | None = None) -> Self:
        """Read it again; `params` are what it was made with, if it is to be trained again.

        `classes_` are texts, in the order of the columns. Raises `BadConfig` for any other folder.
        """
        _installed()
        import torch
        from transformers import AutoModelForSequenceClassification

        with _quietly():
            try:
                tokenizer = _tokenizer(folder, local_files_only=True)
                model = AutoModelForSequenceClassification.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
                )
            except Exception as exc:  # a broken folder fails in many ways
                raise BadConfig(
                    f"{folder} holds no trained encoder that can be read: {_first_line(exc)}",
                    hint="give a folder that a student of kind encoder was saved to",
                ) from exc
        if params is None:
            params = {"model": str(folder), "max_length": tokenizer.model_max_length}
        self = cls(**params)
        self.tokenizer_ = tokenizer
        self.model_ = model.to("cuda" if torch.cuda.is_available() else "cpu")
        names = model.config.id2label
        self.classes_ = np.array([names[i] for i in range(len(names))])
        return self

    # -- training -----------------------------------------------------------------------------

    def _check(self) -> None:
        """Raise `BadConfig` for a setting out of range."""
        for name in ("epochs", "batch_size", "patience", "max_length"):
            if getattr(self, name) < 1:
                raise BadConfig(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.validation <= 0.5:  # noqa: PLR2004
            raise BadConfig(f"validation must be between 0 and 0.5, not {self.validation}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise BadConfig(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if self.learning_rate <= 0:
            raise BadConfig(f"learning_rate must be above 0, not {self.learning_rate}")
        if self.class_weight not in {"balanced", None}:
            raise BadConfig(f"class_weight must be balanced or None, not {self.class_weight!r}")

    def _begin(self, names: list[str]) -> tuple[Any, Any]:
        """Return the tokenizer, and the model with a layer for these labels."""
        _installed()
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification

        folder = Path(self.model)
        try:
            config = AutoConfig.from_pretrained(
                self.model,
                num_labels=len(names),
                id2label=dict(enumerate(names)),
                label2id={name: i for i, name in enumerate(names)},
                problem_type="single_label_classification",  # vLLM reads it: a softmax
            )
            if self.dropout is not None:
                for name in DROPOUTS:
                    if hasattr(config, name):
                        setattr(config, name, self.dropout)
            tokenizer = _tokenizer(self.model)
            if folder.is_dir() and not _has_weights(folder):
                model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
            else:
                # Another task's last layer has another shape; ours is new in any case.
                model = AutoModelForSequenceClassification.from_pretrained(
                    self.model, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
                )
        except Exception as exc:  # the hub, a folder, a file in it: each fails in its own ways
            raise BadConfig(
                f"no encoder {self.model!r} here, and none by this name could be fetched: "
                f"{_first_line(exc)}",
                hint="give a folder with a model, or a name on the model hub while it can be "
                "reached (once: hf download NAME; HF_HUB_OFFLINE must not be 1)",
            ) from exc
        if tokenizer.pad_token is None:
            raise BadConfig(f"{self.model!r} has no padding token: not an encoder of BERT's family")
        # Kept in the tokenizer's file: vLLM cuts texts at the same token.
        tokenizer.model_max_length = min(
            self.max_length, tokenizer.model_max_length, _positions(config)
        )
        return tokenizer, model

    def _tokens(self, texts: list[str]) -> Any:
        return self.tokenizer_(texts, padding=True, truncation=True, return_tensors="pt")

    def _collate(self, rows: list[tuple[str, Array]]) -> Any:
        import torch

        batch = self._tokens([text for text, _ in rows])
        batch["labels"] = torch.from_numpy(np.stack([target for _, target in rows]))
        return batch

    def _train(self, rows: list[tuple[str, Array]], held: list[tuple[str, Array]]) -> list[float]:
        """Train on rows of text and weighted target; return the loss of `held` by epoch."""
        from transformers import (
            EarlyStoppingCallback,
            PrinterCallback,
            Trainer,
            TrainingArguments,
        )

        steps = -(-len(rows) // self.batch_size) * self.epochs
        when = "epoch" if held else "no"
        with tempfile.TemporaryDirectory(prefix="llmcat-encoder-") as scratch:
            trainer = Trainer(
                model=self.model_,
                args=TrainingArguments(
                    output_dir=scratch,
                    num_train_epochs=self.epochs,
                    learning_rate=self.learning_rate,
                    per_device_train_batch_size=self.batch_size,
                    per_device_eval_batch_size=4 * self.batch_size,
                    warmup_steps=round(WARMUP * steps),
                    weight_decay=DECAY,
                    eval_strategy=when,
                    save_strategy=when,
                    save_only_model=True,
                    save_total_limit=1,
                    load_best_model_at_end=bool(held),
                    metric_for_best_model="loss",
                    greater_is_better=False,
                    logging_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    remove_unused_columns=False,
                    dataloader_pin_memory=False,
                    seed=self.seed,
                ),
                data_collator=self._collate,
                train_dataset=rows,
                eval_dataset=held or None,
                compute_loss_func=weighted_loss,
                callbacks=[EarlyStoppingCallback(self.patience)] if held else None,
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            self.epochs_ = round(trainer.state.epoch)
            log = trainer.state.log_history
        return [float(entry["eval_loss"]) for entry in log if "eval_loss" in entry]


def weighted_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:  # noqa: ARG001
    """Return the mean cross entropy over a batch, each item by its weight.

    `labels` has shape `(batch, classes)`: the item's weight at its label, 0 elsewhere. Weights
    have a mean of 1 over all of the training.
    """
    return -(labels * outputs.logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def _weights(texts: Sequence[str], index: Array, given: Sequence[float] | None) -> Array:
    """Return sample weights, shape `(texts,)`. Raises `InputError` where they do not fit."""
    if len(texts) != len(index):
        raise InputError(f"{len(texts)} texts but {len(index)} labels")
    weights = np.ones(len(texts)) if given is None else np.asarray(given, dtype=float)
    if weights.shape != (len(texts),):
        raise InputError(f"{len(texts)} texts but weights of shape {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError("sample weights are numbers of at least 0")
    return weights


def _held_out(index: Array, share: float, seed: int) -> Array:
    """Return which rows are kept out of training, shape `(rows,)`, every class in proportion.

    Every so many-th row of all, sorted by class and mixed within it: exact for the whole, as near
    as can be for each class, and never a class's only row.
    """
    rng = np.random.default_rng(seed)
    n = len(index)
    order = np.lexsort((rng.random(n), index))
    marks = np.floor(np.arange(n + 1) * share + rng.random())
    out = np.zeros(n, dtype=bool)
    out[order] = np.diff(marks) > 0
    return np.asarray(out & (np.bincount(index)[index] > 1))


# -- what transformers leaves to us ---------------------------------------------------------------


def _installed() -> None:
    """Raise `BadConfig` if a package is missing."""
    missing = [p for p in ("torch", "transformers", "accelerate") if util.find_spec(p) is None]
    if missing:
        raise BadConfig(
            f"an encoder needs {' and '.join(missing)}", hint='pip install "llmcat[encoder]"'
        )


def _tokenizer(source: str | Path, **options: Any) -> Any:
    """Return a model's tokenizer. Raises `ValueError` where there is none but an empty one."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(source, **options)
    if len(found) <= len(found.all_special_ids):
        raise ValueError("there is no tokenizer")
    return found


def _has_weights(folder: Path) -> bool:
    return any(next(folder.glob(kind), None) for kind in ("*.safetensors", "*.bin"))


def _positions(config: Any) -> int:
    """Return how many tokens the model can tell the place of."""
    places: int = getattr(config, "max_position_embeddings", None) or 1 << 30
    # RoBERTa counts places from behind the padding token's.
    return places - (config.pad_token_id + 1 if "roberta" in config.model_type else 0)


def _first_line(exc: Exception) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]


@contextmanager
def _quietly() -> Iterator[None]:
    """No bars, no advice on standard error, no deprecations between the packages below."""
    _installed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging as theirs

        hub = logging.getLogger("huggingface_hub")
        level, bars, hub_level = theirs.get_verbosity(), theirs.is_progress_bar_enabled(), hub.level
        theirs.set_verbosity_error()
        theirs.disable_progress_bar()
        hub.setLevel(logging.ERROR)
        try:
            yield
        finally:
            hub.setLevel(hub_level)
            theirs.set_verbosity(level)
            if bars:
                theirs.enable_progress_bar()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw the first weights by a seed, and leave the caller's random numbers as they were."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
