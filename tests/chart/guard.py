"""Stands before an API server and lets through only what rules of RBAC allow."""

import asyncio
import contextlib
import re
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp
from aiohttp import web

Rule = Mapping[str, list[str]]


class Right(NamedTuple):
    """A verb on a kind of object."""

    verb: str
    group: str
    resource: str
    """With its subresource: ``studies/status``."""


class Asked(NamedTuple):
    """What a request is about."""

    right: Right
    namespace: str
    name: str


def asked_by(method: str, path: str, query: Mapping[str, str]) -> Asked | None:
    """Return what a request asks for; None for discovery, which everybody may do."""
    found = re.fullmatch(
        r"/(?:api|apis/(?P<group>[^/]+))/v[a-z0-9]+(?:/namespaces/(?P<namespace>[^/]+))?"
        r"/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?P<subresource>/[a-z]+)?",
        path,
    )
    if found is None:
        return None
    name = found["name"] or ""
    if method == "GET":
        verb = "get" if name else "watch" if query.get("watch") in ("true", "1") else "list"
    else:
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[method]
    resource = found["resource"] + (found["subresource"] or "")
    return Asked(Right(verb, found["group"] or "", resource), found["namespace"] or "", name)


def rights_of(rules: list[Rule]) -> set[Right]:
    """Return what rules grant, for whatever names."""
    return {
        Right(verb, group, resource)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


class Guard:
    """Serves at ``url`` what ``target`` serves, as far as the rules go.

    ``everywhere`` are rules for all namespaces, ``inside`` for those of one.
    """

    def __init__(
        self, target: str, everywhere: list[Rule], inside: Mapping[str, list[Rule]]
    ) -> None:
        self.refused: list[Asked] = []
        self.used: set[Right] = set()
        self.url = ""
        self._target = target
        self._everywhere = everywhere
        self._inside = inside
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="guard")

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def allows(self, asked: Asked) -> bool:
        """Whether a rule grants what is asked."""
        for rule in [*self._everywhere, *self._inside.get(asked.namespace, ())]:
            if asked.right in rights_of([rule]):
                names = rule.get("resourceNames")
                if names is None or asked.name in names:
                    return True
        return False

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        # The watches that are under way.
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        asked = asked_by(request.method, request.path, request.query)
        if asked is not None:
            needed = [asked]
            whole = "/" not in asked.right.resource
            if whole and asked.right.verb == "patch" and not await self._is_there(request):
                # Server-side apply makes what is not there.
                needed.append(asked._replace(right=asked.right._replace(verb="create")))
            for one in needed:
                if not self.allows(one):
                    self.refused.append(one)
                    return _forbidden(one)
                self.used.add(one.right)
        return await self._forward(request)

    async def _is_there(self, request: web.Request) -> bool:
        async with self._session.get(self._target + request.path) as response:
            return response.status != 404

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        async with self._session.request(
            request.method,
            self._target + request.path_qs,
            headers={"Content-Type": request.headers.get("Content-Type", "application/json")},
            data=await request.read(),
        ) as response:
            answer = web.StreamResponse(
                status=response.status, headers={"Content-Type": response.content_type}
            )
            await answer.prepare(request)
            try:
                async for chunk in response.content.iter_any():
                    await answer.write(chunk)
            except (ConnectionError, aiohttp.ClientError):
                # A watch that one side has ended.
                pass
            return answer


def _forbidden(asked: Asked) -> web.Response:
    status: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": 403,
        "reason": "Forbidden",
        "message": f"{asked.right.resource} is forbidden: cannot {asked.right.verb}",
    }
    return web.json_response(status, status=403)
