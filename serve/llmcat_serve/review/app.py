"""The review page's server: loopback only, JSON over POST, one page that needs no network."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from llmcat.errors import LlmcatError
from llmcat.records import NONE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmcat.taxonomy.tree import Taxonomy
    from llmcat_serve.review.queue import Queue

__all__ = ["make_app", "nodes_of", "page"]

HEADER = "X-Llmcat"
"""A page of another site cannot send it without being asked for permission first."""
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src https: http: data:; base-uri 'none'; form-action 'none'"
)
LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}
NOTES = {"skip", "opinion", "taxonomy"}


def make_app(queue: Queue, taxonomy: Taxonomy, *, title: str) -> web.Application:
    """Return the application."""
    app = web.Application(middlewares=[_guard], client_max_size=1 << 16)
    whole = page(title)
    nodes = orjson.dumps(nodes_of(taxonomy))
    labels = {node["id"] for node in nodes_of(taxonomy)} | {NONE}

    async def index(_: web.Request) -> web.Response:
        return web.Response(text=whole, content_type="text/html")

    async def all_nodes(_: web.Request) -> web.Response:
        return web.Response(body=nodes, content_type="application/json")

    async def progress(_: web.Request) -> web.Response:
        return _json(queue.progress())

    def act(work: Callable[[str, dict[str, Any]], Any]) -> Callable[[web.Request], Any]:
        async def handler(request: web.Request) -> web.Response:
            body = await request.json(loads=orjson.loads)
            who = str(body.get("who") or "").strip()
            if not who or len(who) > 80:  # noqa: PLR2004
                return _json({"error": "who are you?"}, 400)
            return _json({"item": work(who, body), "progress": queue.progress()})

        return handler

    def put(who: str, body: dict[str, Any]) -> Any:
        label = str(body.get("label"))
        if label not in labels:
            raise web.HTTPBadRequest(text=f"no category {label!r}")
        queue.label(who, str(body.get("key")), label)
        return queue.next(who)

    def note(who: str, body: dict[str, Any]) -> Any:
        what = str(body.get("what"))
        if what not in NOTES:
            raise web.HTTPBadRequest(text=f"what is {what!r}?")
        queue.note(who, str(body.get("key")), what)
        return queue.next(who)

    app.router.add_get("/", index)
    app.router.add_get("/nodes", all_nodes)
    app.router.add_get("/progress", progress)
    app.router.add_post("/next", act(lambda who, _: queue.next(who)))
    app.router.add_post("/label", act(put))
    app.router.add_post("/note", act(note))
    app.router.add_post("/undo", act(lambda who, _: queue.undo(who) or queue.next(who)))
    return app


@web.middleware
async def _guard(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer nobody but a page of this server, asked for under a name of this machine."""
    host = (request.host or "").rsplit(":", 1)[0] if ":" in request.host else request.host
    if host not in LOOPBACK or (request.method == "POST" and HEADER not in request.headers):
        return web.Response(status=403, text="this page is for the machine it runs on")
    try:
        response = await handler(request)
    except LlmcatError as exc:
        response = _json({"error": str(exc), "hint": exc.hint}, 400)
    except orjson.JSONDecodeError:
        response = _json({"error": "not JSON"}, 400)
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    return response


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def nodes_of(taxonomy: Taxonomy) -> list[dict[str, str]]:
    """Return the categories that an item can get, inner ones too, as the page searches them."""
    return [
        {"id": node.id, "path": node.label}
        for node in taxonomy.nodes.values()
        if not node.deprecated
    ]


def page(title: str, data: dict[str, Any] | None = None) -> str:
    """Return the page as one text; with `data` it needs no server, and gives answers as a file."""
    parts = resources.files("llmcat_serve.review").joinpath("page")
    text = parts.joinpath("index.html").read_text("utf-8")
    told = orjson.dumps({"title": title, "data": data}).decode().replace("<", "\\u003c")
    return (
        text.replace("/*style*/", parts.joinpath("style.css").read_text("utf-8"))
        .replace("/*script*/", parts.joinpath("script.js").read_text("utf-8"))
        .replace("/*told*/", told)
    )
