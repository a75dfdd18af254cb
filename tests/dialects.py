"""A server that speaks the dialects of servers and providers that cannot run here.

Each path prefix is one of them, as its documentation says: which field holds the constraint, what
is refused, which log-probabilities come back. The model behind it knows one thing: of the answers
the constraint allows it prefers the one whose menu line shares a word with the item.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from aiohttp import web
from helpers import InThread, free_port

Body = dict[str, Any]


class Refused(Exception):
    """An HTTP status and why."""


def allowed_by(regex: str) -> list[str]:
    """The alternatives of `(A|B|C)`, unescaped."""
    inner = re.sub(r"(?<!\\)[()]", "", regex).strip()
    return [re.sub(r"\\(.)", r"\1", part) for part in re.split(r"(?<!\\)\|", inner)]


def in_schema(schema: Body) -> list[str]:
    return list(schema["properties"]["label"]["enum"])


class Dialects(InThread):
    """`url/NAME/v1` speaks NAME; `ignoring` makes all of them disregard constraints."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ignoring = False
        self.failing: dict[str, int] = {}
        self.bodies: list[Body] = []
        super().__init__()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{dialect}/v1/models", self._models)
        app.router.add_post("/{dialect}/v1/chat/completions", self._chat)
        app.router.add_post("/{dialect}/v1/messages", self._messages)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        await self.runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        card = {"id": "m", "object": "model", "created": 1, "owned_by": "us"}
        return web.json_response({"object": "list", "data": [card]})

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        name = request.match_info["dialect"]
        if status := self.failing.get(name):
            return web.json_response({"error": {"message": "down for now"}}, status=status)
        try:
            options, top = getattr(self, f"_{name}")(body)
        except Refused as exc:
            status, why = exc.args
            return web.json_response({"error": {"message": why}}, status=status)
        text, wrapped = (
            self._decide(body["messages"], options),
            name in {"openai", "thinker", "ollama"},
        )
        if self.ignoring:
            text, wrapped = "A", False
        tokens = ['{"', "label", '":"', text, '"}'] if wrapped else [text]
        content = [self._listed(t, options, top if t == text else 1) for t in tokens]
        choice: Body = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "".join(tokens)},
        }
        if body.get("logprobs") and name != "ollama":  # older Ollamas leave them out
            choice["logprobs"] = {"content": content}
        usage = {"prompt_tokens": 50, "completion_tokens": len(tokens), "total_tokens": 55}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        return web.json_response(reply | {"choices": [choice], "usage": usage})

    async def _messages(self, request: web.Request) -> web.Response:
        """Anthropic's own route: the schema is a tool's, or the output format's."""
        body = await request.json()
        self.bodies.append(body)
        shape = (body.get("output_config") or {}).get("format") or body.get("output_format")
        schema = shape["schema"] if shape else body["tools"][0]["input_schema"]
        told = body.get("system") or []
        system = told if isinstance(told, str) else "\n".join(block["text"] for block in told)
        messages = [{"content": system}, *body["messages"]]
        text = json.dumps({"label": self._decide(messages, in_schema(schema))})
        block: Body = {"type": "text", "text": text}
        if not shape:
            block = {"type": "tool_use", "id": "t", "name": body["tools"][0]["name"]}
            block["input"] = json.loads(text)
        return web.json_response(
            {
                "id": "1",
                "type": "message",
                "role": "assistant",
                "model": body["model"],
                "content": [block],
                "stop_reason": "end_turn" if shape else "tool_use",
                "usage": {"input_tokens": 50, "output_tokens": 9},
            }
        )

    # -- the dialects: what the constraint allows, how long the list may be --------------------

    def _openai(self, body: Body) -> tuple[list[str], int]:
        known = {
            "model", "messages", "temperature", "max_tokens", "max_completion_tokens", "logprobs",
            "top_logprobs", "response_format",
        }  # fmt: skip
        if unknown := set(body) - known:
            raise Refused(400, f"Unrecognized request argument supplied: {unknown}")
        if body.get("top_logprobs", 0) > 20:
            raise Refused(400, "Invalid value for 'top_logprobs': must be at most 20")
        shape = body["response_format"]["json_schema"]
        if not shape["strict"] or shape["schema"]["additionalProperties"] is not False:
            raise Refused(400, "'additionalProperties' is required to be supplied and to be false")
        return in_schema(shape["schema"]), 20

    def _thinker(self, body: Body) -> tuple[list[str], int]:
        if "logprobs" in body:
            raise Refused(400, "You are not allowed to request logprobs from this model")
        return self._openai(body)

    def _ollama(self, body: Body) -> tuple[list[str], int]:
        return in_schema(body["response_format"]["json_schema"]["schema"]), 0

    def _sglang(self, body: Body) -> tuple[list[str], int]:
        return allowed_by(body["regex"]), body.get("top_logprobs", 0)

    def _tgi(self, body: Body) -> tuple[list[str], int]:
        if body.get("top_logprobs", 0) > 5:
            raise Refused(422, "`top_logprobs` must be >= 0 and <= 5")
        return allowed_by(body["response_format"]["value"]), body.get("top_logprobs", 0)

    def _llamacpp(self, body: Body) -> tuple[list[str], int]:
        return re.findall(r'"(.*?)"', body["grammar"]), body.get("top_logprobs", 0)

    # -- the model ---------------------------------------------------------------------------

    def _decide(self, messages: list[Body], options: list[str]) -> str:
        said = [m["content"] for m in messages]
        texts = [t if isinstance(t, str) else t[0]["text"] for t in said]
        words = set(re.findall(r"\w{3,}", texts[-1].lower()))
        lines = "\n".join(texts[:-1]).splitlines()

        def overlap(option: str) -> int:
            line = next((x for x in lines if x.startswith(f"{option}.")), option)
            return len(words & set(re.findall(r"\w{3,}", line.lower())))

        return max(options, key=overlap)

    def _listed(self, token: str, options: list[str], top: int) -> Body:
        """The model's own probabilities: the chosen 0.6, then ever less, a tenth elsewhere."""
        others = [o for o in options if o != token]
        p = {token: 0.6 if token in options else 1.0} | {
            o: 0.3 / 2**i for i, o in enumerate(others, 1)
        }
        ranked = sorted(p.items(), key=lambda pair: -pair[1])[: max(top, 1)]
        entries = [{"token": t, "logprob": math.log(v), "bytes": None} for t, v in ranked]
        return {**entries[0], "top_logprobs": entries[:top]}
