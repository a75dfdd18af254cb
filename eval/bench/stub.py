"""A server that speaks enough of vLLM's dialect to be asked, and answers at once.

    python eval/bench/stub.py PORT

For measuring what a client costs. It computes nothing: probabilities fall with the place on the
menu. One process, loopback only.
"""

from __future__ import annotations

import math
import sys
from functools import cache
from typing import Any

import orjson
from aiohttp import web

SERVED = "stub"
FORBIDDEN = -9999.0
WORDS = 500  # what a tokenized conversation is long here


def reply(value: Any) -> web.Response:
    """Answer with JSON."""
    return web.Response(body=orjson.dumps(value), content_type="application/json")


async def models(_: web.Request) -> web.Response:
    """Name the one model."""
    return reply({"data": [{"id": SERVED, "max_model_len": 32_768}]})


async def tokenize(request: web.Request) -> web.Response:
    """Every code is a token of its own: its number stands for its letters."""
    body = orjson.loads(await request.read())
    if "messages" in body:
        return reply({"tokens": [1], "count": WORDS, "max_model_len": 32_768})
    code = body["prompt"].removeprefix("place:")
    number = sum(ord(c) * 256**i for i, c in enumerate(code))
    return reply({"tokens": [1, number] if code else [1], "max_model_len": 32_768})


async def detokenize(_: web.Request) -> web.Response:
    """The place where an answer begins."""
    return reply({"prompt": "place:"})


async def answer(request: web.Request) -> web.Response:
    """Answer with the first allowed token and a fixed distribution."""
    body = orjson.loads(await request.read())
    ids = body.get("logprob_token_ids") or [65]
    allowed = body.get("allowed_token_ids")
    inside = ids[:-1] if len(ids) > 1 else ids  # the last one stands outside the menu
    masked = "structured_outputs" in body
    weight = distribution(len(inside))
    top = [{"token": f"token_id:{i}", "logprob": w} for i, w in zip(inside, weight, strict=True)]
    if len(ids) > len(inside):
        last = FORBIDDEN if masked else -12.0
        top.append({"token": f"token_id:{ids[-1]}", "logprob": last})
    first = {"token": f"token_id:{allowed[0] if allowed else ids[0]}", "logprob": weight[0]}
    content = [{**first, "top_logprobs": top}]
    return reply(
        {
            "choices": [{"message": {"content": "A"}, "logprobs": {"content": content}}],
            "usage": {"prompt_tokens": WORDS, "completion_tokens": 1},
        }
    )


async def decide(request: web.Request) -> web.Response:
    """Answer each question: the first options are the likeliest, but for the state's length."""
    body = orjson.loads(await request.read())
    answers = {}
    for id_, question in body["questions"].items():
        names = list(question["criteria"])
        turned = sum(map(ord, body["state"])) % len(names)
        order = names[turned:] + names[:turned]
        p = dict(zip(order, map(math.exp, distribution(len(names))), strict=True))
        answers[id_] = {"type": "choice", "choice": order[0], "probabilities": p, "confidence": 0.5}
    used = {"input_tokens": WORDS, "output_tokens": 1}
    return reply({"model": SERVED, "answers": answers, "usage": used})


@cache
def distribution(count: int) -> list[float]:
    """Log-probabilities that sum to one, each half the one before, at least a millionth."""
    weights = [max(2.0**-i, 1e-6) for i in range(count)]
    total = math.fsum(weights)
    return [math.log(w / total) for w in weights]


def main() -> None:
    """Serve until ended."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/version", lambda _: _version())
    app.router.add_get("/health", lambda _: _version())
    app.router.add_post("/tokenize", tokenize)
    app.router.add_post("/detokenize", detokenize)
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_post("/v1/systemone", decide)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


async def _version() -> web.Response:
    return reply({"version": "stub"})


if __name__ == "__main__":
    main()
