"""A small API server for tests: what the operator asks of a real one, over HTTP.

It is held to a real one's behaviour by ``tests/controller/test_behaviour.py``, which runs against
either.
"""

import asyncio
import contextlib
import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import yaml
from aiohttp import web

from tests.controller.standin import streams
from tests.controller.standin.containers import data_of
from tests.controller.standin.objects import Change, Object, Objects, Place, Refused
from trialfleet import names

RESOURCES = {
    "v1": {
        "pods": "Pod",
        "events": "Event",
        "secrets": "Secret",
        "configmaps": "ConfigMap",
        "persistentvolumeclaims": "PersistentVolumeClaim",
        "services": "Service",
        "namespaces": "Namespace",
    },
    "apps/v1": {
        "statefulsets": "StatefulSet",
        "daemonsets": "DaemonSet",
        "deployments": "Deployment",
    },
    "batch/v1": {"jobs": "Job", "cronjobs": "CronJob"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "coordination.k8s.io/v1": {"leases": "Lease"},
    "apiextensions.k8s.io/v1": {"customresourcedefinitions": "CustomResourceDefinition"},
    "trialfleet.dev/v1alpha1": {"studies": "Study", "studystorages": "StudyStorage"},
}
_CLUSTER_WIDE = {"namespaces", "customresourcedefinitions"}
_WITH_STATUS = {"pods", "jobs", "statefulsets", "daemonsets", "deployments", "studies"}
_WITH_STATUS |= {"studystorages"}

_FORBIDDEN = {"Bearer no-secrets": "secrets", "Bearer no-forwarding": "portforward"}
"""What somebody with a token may not do; everybody else may do everything."""

_IMMUTABLE = {
    "jobs": ("selector", "template", "completions", "podFailurePolicy"),
    "statefulsets": ("volumeClaimTemplates", "serviceName", "selector"),
}


class Request(NamedTuple):
    """A request, also of a watch and of discovery."""

    method: str
    path: str
    agent: str


class ApiServer:
    """Serves objects at ``url`` between ``start`` and ``stop``."""

    def __init__(self) -> None:
        self.objects = Objects()
        self.requests: list[Request] = []
        self._runner: web.AppRunner | None = None
        self.url = ""
        self._broken = False
        self._watches: set[asyncio.Task[None]] = set()
        self.log_of: Callable[[str, str], bytes] = lambda pod, container: b""
        """What a container of a pod has written."""

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        """Close all connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def breaks(self, broken: bool) -> None:
        """Refuse every fourth request of the operator, as a busy server does; or no more.

        Watches are dropped now, and begin anew with an error: what they ask for is too old.
        """
        self._broken = broken
        for task in tuple(self._watches):
            task.cancel()

    def _refuse(self, request: web.Request, agent: str) -> None:
        watches = request.query.get("watch") in ("true", "1")
        if not self._broken or watches or agent != names.OPERATOR or len(self.requests) % 4:
            return
        codes = {429: "TooManyRequests", 500: "InternalError"}
        if request.method in ("PATCH", "PUT"):
            codes[409] = "Conflict"
        code = sorted(codes)[len(self.requests) // 4 % len(codes)]
        raise Refused(code, codes[code], "the server is busy")

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        agent = request.headers.get("User-Agent", "")
        self.requests.append(Request(request.method, path, agent))
        try:
            self._refuse(request, agent)
            discovered = _discover(path)
            if discovered is not None:
                return web.json_response(discovered)
            return await self._serve(request, path)
        except Refused as refused:
            return web.json_response(
                {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "status": "Failure",
                    "code": refused.code,
                    "reason": refused.reason,
                    "message": str(refused),
                },
                status=refused.code,
            )

    async def _serve(self, request: web.Request, path: str) -> web.StreamResponse:
        api, resource, namespace, name, subresource = _split(path)
        if _FORBIDDEN.get(request.headers.get("Authorization", "")) in (resource, subresource):
            message = f'{resource} is forbidden: User "tester" cannot {request.method} it'
            raise Refused(403, "Forbidden", message)
        query = request.query
        if request.method == "GET" and not name:
            if query.get("watch") in ("true", "1"):
                return await self._watch(request, api, resource, namespace)
            return web.json_response(self._list(api, resource, namespace, query))
        place = (resource, namespace, name)
        if subresource == "portforward":
            return await streams.forward(request, self.objects.get(place))
        if subresource == "log":
            return await streams.log(request, self.objects, place, self.log_of)
        if request.method == "GET":
            return web.json_response(_served(self.objects.get(place)))
        body = _body(await request.text())
        manager = query.get("fieldManager", "unknown")
        if request.method == "POST":
            name = body["metadata"].get("name", "")
            status = 201
            _check_name(name)
            body |= {"apiVersion": api, "kind": RESOURCES[api][resource]}
            answer = self.objects.create((resource, namespace, name), body, manager)
        elif request.method == "PATCH":
            status = 200
            answer = self._patch(request, place, body, manager, subresource)
        elif request.method == "PUT":
            status = 200
            before = self.objects.get(place)
            _check_preconditions(before, {"metadata": dict(body["metadata"])})
            _check_immutable(resource, before, body)
            answer = self.objects.update(place, lambda _: body, manager, subresource)
        elif request.method == "DELETE":
            status = 200
            answer = self.objects.delete(
                place,
                uid=body.get("preconditions", {}).get("uid", ""),
                grace_s=body.get("gracePeriodSeconds"),
            )
        else:
            raise Refused(405, "MethodNotAllowed", request.method)
        return web.json_response(answer, status=status)

    def _patch(
        self, request: web.Request, place: Place, body: Object, manager: str, subresource: str
    ) -> Object:
        force = request.query.get("force") == "true"
        before = None
        with contextlib.suppress(Refused):
            before = self.objects.get(place)
        if request.content_type == "application/apply-patch+yaml":
            if not request.query.get("fieldManager"):
                raise Refused(422, "Invalid", "fieldManager is required for apply patch")
            _check_preconditions(before, body)
            _check_immutable(place[0], before, body)
            return self.objects.apply(place, body, manager, force=force, subresource=subresource)
        if subresource == "scale":
            body, subresource = {"spec": {"parallelism": body["spec"]["replicas"]}}, ""
        return self.objects.update(place, lambda obj: merge_patch(obj, body), manager, subresource)

    def _list(self, api: str, resource: str, namespace: str, query: Mapping[str, str]) -> Object:
        kind = RESOURCES[api][resource]
        items = [
            _served(obj) for obj in self.objects.list(resource, namespace) if _selected(obj, query)
        ]
        return {
            "apiVersion": api,
            "kind": f"{kind}List",
            "metadata": {"resourceVersion": str(self.objects.version)},
            "items": items,
        }

    async def _watch(
        self, request: web.Request, api: str, resource: str, namespace: str
    ) -> web.StreamResponse:
        query = request.query
        since = int(query.get("resourceVersion") or self.objects.version)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        queue: asyncio.Queue[Change] = asyncio.Queue()
        for change in self.objects.history:
            if change.version > since:
                queue.put_nowait(change)
        self.objects.listeners.append(queue.put_nowait)
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            if self._broken:
                gone = {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired"}
                event = {"type": "ERROR", "object": {"apiVersion": "v1", **gone}}
                await response.write(json.dumps(event).encode() + b"\n")
                return response
            async with asyncio.timeout(float(query.get("timeoutSeconds") or 3600)):
                while True:
                    change = await queue.get()
                    if change.resource != resource:
                        continue
                    if namespace not in ("", change.object["metadata"].get("namespace", "")):
                        continue
                    told = _told(change, query)
                    if told is not None:
                        event = {"type": told, "object": change.object}
                        await response.write(json.dumps(event).encode() + b"\n")
        except (ConnectionError, TimeoutError):
            pass
        finally:
            self._watches.discard(task)
            self.objects.listeners.remove(queue.put_nowait)
        return response


def _served(obj: Object) -> Object:
    """Return an object as it is read: a Secret's texts are written only."""
    if obj.get("kind") == "Secret" and "stringData" in obj:
        encoded = {key: b64encode(text).decode() for key, text in data_of(obj).items()}
        return {**{key: part for key, part in obj.items() if key != "stringData"}, "data": encoded}
    return obj


def _told(change: Change, query: Mapping[str, str]) -> str | None:
    """Return as what a watch is told of a change: leaving the selection is a deletion."""
    was = change.before is not None and _selected(change.before, query)
    if change.type == "DELETED" or not _selected(change.object, query):
        return "DELETED" if was else None
    return "MODIFIED" if was else "ADDED"


def _selected(obj: Object, query: Mapping[str, str]) -> bool:
    labels = obj["metadata"].get("labels", {})
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, _, wanted = term.partition("=")
        if key not in labels or ("=" in term and labels[key] != wanted.lstrip("=")):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        key, _, wanted = term.partition("=")
        at: Any = obj
        for part in key.split("."):
            at = at.get(part, {}) if isinstance(at, Mapping) else {}
        if at != wanted:
            return False
    return True


def _split(path: str) -> tuple[str, str, str, str, str]:
    found = re.fullmatch(
        r"/(?:api|apis)/((?:[a-z0-9.-]+/)?v[a-z0-9]+)(?:/namespaces/([^/]+))?"
        r"/([a-z]+)(?:/([^/]+))?(?:/([a-z]+))?",
        path,
    )
    if found is None or found[3] not in RESOURCES.get(found[1], {}):
        again = re.fullmatch(r"/api/v1/namespaces/([^/]+)", path)
        if again is not None:
            return "v1", "namespaces", "", again[1], ""
        raise Refused(404, "NotFound", "the server could not find the requested resource")
    return found[1], found[3], found[2] or "", found[4] or "", found[5] or ""


def _discover(path: str) -> Object | None:
    groups = [api for api in RESOURCES if "/" in api]
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "groups": [_group(api) for api in groups]}
    api = path.removeprefix("/apis/").removeprefix("/api/")
    if api in RESOURCES:
        return {
            "kind": "APIResourceList",
            "groupVersion": api,
            "resources": _resources(api),
        }
    return None


def _group(api: str) -> Object:
    group, _, version = api.partition("/")
    entry = {"groupVersion": api, "version": version}
    return {"name": group, "versions": [entry], "preferredVersion": entry}


def _resources(api: str) -> list[Object]:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    listed = []
    for plural, kind in RESOURCES[api].items():
        one = {
            "name": plural,
            "singularName": kind.lower(),
            "kind": kind,
            "namespaced": plural not in _CLUSTER_WIDE,
            "verbs": verbs,
        }
        listed.append(one)
        if plural in _WITH_STATUS:
            listed.append({**one, "name": f"{plural}/status", "verbs": ["get", "patch"]})
    return listed


def _body(text: str) -> Object:
    loaded = yaml.safe_load(text) if text else {}
    return loaded if isinstance(loaded, dict) else {}


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name):
        raise Refused(422, "Invalid", f"metadata.name: Invalid value: {name!r}")


def _check_preconditions(before: Object | None, body: Object) -> None:
    uid = body["metadata"].pop("uid", "")
    version = body["metadata"].pop("resourceVersion", "")
    if before is None:
        if uid:
            raise Refused(409, "Conflict", f"uid mismatch: no object has the uid {uid}")
        return
    if version and version != before["metadata"]["resourceVersion"]:
        raise Refused(409, "Conflict", "the object has been modified")
    if uid and uid != before["metadata"]["uid"]:
        raise Refused(422, "Invalid", "metadata.uid: Invalid value: field is immutable")


def _check_immutable(resource: str, before: Object | None, body: Object) -> None:
    if before is None:
        return
    for field in _IMMUTABLE.get(resource, ()):
        wanted, found = body.get("spec", {}).get(field), before.get("spec", {}).get(field)
        if wanted is not None and found is not None and wanted != found:
            raise Refused(422, "Invalid", f"spec.{field}: Invalid value: field is immutable")


def merge_patch(value: Any, patch: Any) -> Any:
    """Return a value changed as RFC 7386 says."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(value) if isinstance(value, Mapping) else {}
    for key, part in patch.items():
        if part is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), part)
    return merged
