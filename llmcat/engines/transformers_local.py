"""A model in this process, through transformers: no server, any machine, CPU, CUDA or MPS.

Asks are collected into batches. What a batch's conversations share (rules, menu, fixed examples)
is computed once per prefix and its keys and values are kept. Under `outlines` the logits go
through Outlines' own logits processor before the softmax, as they would in generation; under
`tokens` they stay as they are, and the softmax runs over the whole vocabulary.

The demo model (package `llmcat-demo`) is served by this engine too, under the name `demo`.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcat.candidates.codes import grammar, most_tokens
from llmcat.engines import Capabilities, Served, generated, in_batches
from llmcat.engines.chat_template import Chat, where
from llmcat.engines.hardware import cpuinfo, lacks_bf16
from llmcat.errors import BadConfig, EngineRefused, EngineUnsupported
from llmcat.records import MOST_LABELS, Answer, Message, Read, Request, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

__all__ = ["DEMO_WARNING", "TransformersLocal", "demo_model"]

DEMO_WARNING = "the demo model, made to show llmcat at work: not for labelling real items"
_PREFIXES = 8


@dataclass
class TransformersLocal:
    """`model` is a folder or a name on the model hub; `device` is empty for the best there is.

    `batch`: conversations computed at once. `dtype` as in torch, empty for the model's own, but for
    float32 where a processor has no instructions for bfloat16.
    """

    model: str
    device: str = ""
    dtype: str = ""
    batch: int = 16
    name: str = "transformers_local"
    warning: str = ""
    capabilities: Capabilities = Capabilities(
        scores=("full", "label_only"), constraints=("outlines", "tokens"), labels=MOST_LABELS
    )
    _net: Any = field(default=None, repr=False)
    _tokenizer: Any = field(default=None, repr=False)
    _outlines: Any = field(default=None, repr=False)
    _chat: Any = field(default=None, repr=False)
    _kept: OrderedDict[str, tuple[list[int], Any]] = field(default_factory=OrderedDict, repr=False)
    _masks: dict[str, Any] = field(default_factory=dict, repr=False)

    async def open(self) -> Served:
        """Load the model and find its codes. Raises `EngineUnsupported` or `EngineRefused`."""
        return await asyncio.to_thread(self._open)

    def _open(self) -> Served:
        try:
            import torch
            import transformers
        except ImportError as exc:
            raise EngineUnsupported(
                f"engine {self.name} needs the package {exc.name}",
                hint='pip install "llmcat[transformers]"',
            ) from exc
        transformers.utils.logging.disable_progress_bar()  # the command line has its own
        if not self.device:
            mps = torch.backends.mps.is_available()
            self.device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
        try:
            dtype = getattr(torch, self.dtype) if self.dtype else "auto"
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(self.model)
            net = transformers.AutoModelForCausalLM.from_pretrained(self.model, dtype=dtype)
            slow = self.device == "cpu" and lacks_bf16(cpuinfo())
            if slow and not self.dtype and net.dtype == torch.bfloat16:
                net = net.float()
            self._net = net
            self._net.to(self.device).eval()
        except (OSError, ValueError, AttributeError, RuntimeError) as exc:
            raise EngineRefused(
                f"{self.model}: {str(exc).splitlines()[0]}",
                hint="--model is a folder with a model, or a name on the model hub",
                fatal=True,
            ) from exc
        self._chat = Chat(self._tokenizer, self.model)
        config = self._net.config
        context = int(getattr(config, "max_position_embeddings", 0) or 4096)
        facts = {
            "root": where(self.model),
            "device": self.device,
            "dtype": str(self._net.dtype).removeprefix("torch."),
        }
        if self.warning:
            facts["warning"] = self.warning
        return Served(
            engine=self.name,
            model=Path(self.model).name if self.name != "demo" else "llmcat-demo",
            version=f"transformers {transformers.__version__}, torch {torch.__version__}",
            context=context,
            alphabet=tuple(self._chat.codes),
            facts=facts,
        )

    async def answer(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Answer, None]:
        """Answer a stream of requests in batches, computed in a thread."""
        async with aclosing(in_batches(requests, self.batch)) as batches:
            async for batch in batches:
                for answer in await asyncio.to_thread(self._batch, batch):
                    yield answer

    def _batch(self, requests: list[Request]) -> list[Answer]:
        """Answer requests that came together, prefix by prefix."""
        groups: dict[tuple[str, Read], list[Request]] = {}
        for request in requests:
            groups.setdefault((request.prefix.key, request.read), []).append(request)
        answers: list[Answer] = []
        for group in groups.values():
            if group[0].read != "code":
                answers += [self._spell(request) for request in group]
            else:
                answers += self._group(group)
        return answers

    def _spell(self, request: Request) -> Answer:
        """Generate a name of the menu, or reasons, greedily under Outlines' mask."""
        import torch
        from transformers import LogitsProcessorList

        started = time.perf_counter()
        row = self._chat.ids(request)
        shared, cache, fresh = self._prefix(request)
        if row[: len(shared)] != shared:
            shared, cache, fresh = [], None, True
        ids = torch.tensor([row], device=self.device)
        with torch.inference_mode():
            out = self._net.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=copy.deepcopy(cache),
                logits_processor=LogitsProcessorList(
                    [self._processor(request.menu.codes, request.read)]
                ),
                max_new_tokens=most_tokens(request.menu.codes, request.read),
                do_sample=False,
                pad_token_id=self._pad,
            )[0, len(row) :].tolist()
        text = self._tokenizer.decode(out, skip_special_tokens=True)
        error = None
        if (kept := generated(text, request)) is None:
            error = EngineRefused(f"{self.model} answered {text!r}, which it may not")
        cached = 0 if fresh else len(shared)
        return Answer(
            request=request,
            text=kept or "",
            usage=Usage(prompt=len(row), cached=cached, generated=len(out)),
            seconds=time.perf_counter() - started,
            error=error,
        )

    def _group(self, requests: list[Request]) -> list[Answer]:
        """Answer requests with one prefix in one pass over what is their own."""
        import torch

        started = time.perf_counter()
        rows = [self._chat.ids(request) for request in requests]
        shared, cache, fresh = self._prefix(requests[0])
        if any(row[: len(shared)] != shared for row in rows):
            shared, cache, fresh = [], None, True
        own = [row[len(shared) :] for row in rows]
        longest = max(map(len, own))
        ids = torch.tensor([x + [self._pad] * (longest - len(x)) for x in own], device=self.device)
        there = [[1] * (len(shared) + len(x)) + [0] * (longest - len(x)) for x in own]
        last = torch.tensor([len(x) - 1 for x in own], device=self.device)
        past = copy.deepcopy(cache)
        if past is not None:
            past.batch_repeat_interleave(len(requests))
        with torch.inference_mode():
            places, which = last.unique(return_inverse=True)
            kept = self._net(
                input_ids=ids,
                attention_mask=torch.tensor(there, device=self.device),
                past_key_values=past,
                logits_to_keep=places,
            ).logits
            logits = kept[torch.arange(len(requests), device=self.device), which].float()
            answers = []
            for i, request in enumerate(requests):
                row = logits[i : i + 1]
                if request.constraint == "outlines":
                    row = self._masked(row, ids[i : i + 1], request.menu.codes)
                wanted = [self._chat.codes[code] for code in request.menu.codes]
                logprobs = row.log_softmax(-1)[0, wanted].tolist()
                cached = 0 if fresh and i == 0 else len(shared)
                answers.append(
                    Answer(
                        request=request,
                        logprobs=tuple(logprobs),
                        masked=request.constraint == "outlines",
                        usage=Usage(prompt=len(rows[i]), cached=cached, generated=1),
                        seconds=time.perf_counter() - started,
                    )
                )
        return answers

    def _prefix(self, request: Request) -> tuple[list[int], Any, bool]:
        """Return the tokens that a prefix's conversations share, their cache, and if it is new."""
        import torch

        key = request.prefix.key
        if key in self._kept:
            self._kept.move_to_end(key)
            return *self._kept[key], False
        shared = self._chat.prefix(request)
        if not shared:
            return [], None, True
        with torch.inference_mode():
            ids = torch.tensor([shared], device=self.device)
            cache = self._net.base_model(input_ids=ids, use_cache=True).past_key_values
        self._kept[key] = (shared, cache)
        if len(self._kept) > _PREFIXES:
            self._kept.popitem(last=False)
        return shared, cache, True

    def _masked(self, logits: Any, ids: Any, codes: tuple[str, ...]) -> Any:
        """Let Outlines' logits processor take out everything but the codes."""
        return self._processor(codes, "code")(ids, logits.clone())

    def _processor(self, codes: tuple[str, ...], read: Read) -> Any:
        """Return Outlines' logits processor for a menu, ready for a first token."""
        import outlines
        from outlines.backends import get_regex_logits_processor

        if self._outlines is None:
            self._outlines = outlines.from_transformers(self._net, self._tokenizer)
        regex = grammar(codes, read)
        if regex not in self._masks:
            if len(self._masks) >= MOST_LABELS:
                self._masks.clear()
            made = get_regex_logits_processor("outlines_core", self._outlines, regex)
            self._masks[regex] = made
        self._masks[regex].reset()
        return self._masks[regex]

    @property
    def _pad(self) -> int:
        return int(self._tokenizer.pad_token_id or 0)

    async def count_tokens(self, messages: list[Message]) -> int:
        """Return the length of the conversation, generation prompt included."""
        return len(self._chat.encode(self._chat.text(messages)))

    async def close(self) -> None:
        """Let go of the model."""
        self._net = self._outlines = None
        self._kept.clear()
        self._masks.clear()


def demo_model() -> str:
    """Return the folder of the demo model. Raises `BadConfig` when it is not installed."""
    spec = util.find_spec("llmcat_demo")
    if spec is None or spec.origin is None:
        raise BadConfig(
            "the demo model is not installed here",
            hint="from a clone: pip install ./serve/demo; it is a package of its own",
        )
    return str(Path(spec.origin).parent / "model")
