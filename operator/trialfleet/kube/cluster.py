"""The API server, asynchronously: the few verbs that the operator needs, on plain objects.

Over the client of the official package, for its ways to log in; without its models, which would
drop what a newer API server or a user's template has and they don't.
"""

import copy
import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Self, cast
from urllib.parse import urlencode

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from trialfleet import names
from trialfleet.kube.kinds import ResourceKind, kind_of
from trialfleet.kube.objects import Object

_JSON: Final = "application/json"
_MERGE: Final = "application/merge-patch+json"
_APPLY: Final = "application/apply-patch+yaml"
"""Server-side apply; JSON is YAML."""

_TIMEOUT_S: Final = 30.0


class ClusterError(Exception):
    """The API server refused a request, or did not answer: ``code`` is 0."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        """One word of the API server's, such as ``Conflict``."""

    @property
    def gone(self) -> bool:
        """Whether the object, or its namespace, is not there or is about to go."""
        return self.code == 404 or "is being terminated" in str(self)

    @property
    def passing(self) -> bool:
        """Whether the same request may be granted later: nothing is wrong with it."""
        return self.code in (0, 409, 429) or self.code >= 500


class Cluster:
    """A connection to the API server, on one event loop: ``async with Cluster() as cluster``.

    Every method raises :class:`ClusterError`.
    """

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        """Requests made so far, by the code of their answer; 0 where none came."""
        self.check: Callable[[], None] = lambda: None
        """Called before each request that is more than a read."""

    async def __aenter__(self) -> Self:
        """Log in as a pod does, else by the kubeconfig."""
        self.configuration = Configuration()
        try:
            config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=self.configuration
            )
        except config.ConfigException:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                client_configuration=self.configuration
            )
        self._client = ApiClient(self.configuration)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]

    def checked(self, check: Callable[[], None]) -> "Cluster":
        """Return the same connection, with something to call before each write."""
        other = copy.copy(self)
        other.check = check
        return other

    async def bearer_token(self) -> str:
        """Return the token to log in with now; empty where certificates do it."""
        headers: dict[str, str] = {}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], "", "GET", None)
        return headers.get("authorization", "").partition(" ")[2]

    async def get(self, kind: ResourceKind, namespace: str, name: str) -> Object | None:
        """Return an object, or None if it is not there."""
        try:
            return await self._call("GET", kind.path(namespace, name))
        except ClusterError as error:
            if error.code == 404:
                return None
            raise

    async def list(self, kind: ResourceKind, namespace: str, label: str) -> list[Object]:
        """Return the objects that have a label; of all namespaces, if none is given."""
        found = await self._call("GET", kind.path(namespace), {"labelSelector": label})
        return cast(list[Object], found.get("items", []))

    async def create(self, wanted: Object) -> Object | None:
        """Create an object; None if there is one of its name."""
        kind, namespace, _ = _place(wanted)
        try:
            return await self._call(
                "POST", kind.path(namespace), {"fieldManager": names.OPERATOR}, wanted, _JSON
            )
        except ClusterError as error:
            if error.reason == "AlreadyExists":
                return None
            raise

    async def replace(self, obj: Object) -> Object | None:
        """Replace an object; None if it was changed since it was read, or is gone."""
        kind, namespace, name = _place(obj)
        query = {"fieldManager": names.OPERATOR}
        try:
            return await self._call("PUT", kind.path(namespace, name), query, obj, _JSON)
        except ClusterError as error:
            if error.code == 404 or error.reason == "Conflict":
                return None
            raise

    async def apply_new(self, wanted: Object) -> Object | None:
        """Create an object whose fields are owned as by ``apply``; None if there is one."""
        # No object has this version: with one that is there it is a conflict.
        return await self._apply(wanted, resourceVersion="1")

    async def apply(self, wanted: Object, uid: str) -> Object | None:
        """Change an object so that it is as wanted; None if it is not the one with the uid."""
        return await self._apply(wanted, uid=uid)

    async def apply_status(
        self, kind: ResourceKind, namespace: str, name: str, status: Mapping[str, Any]
    ) -> Object:
        """Replace what the operator said of an object before; return the object."""
        body: Object = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {"name": name, "namespace": namespace},
            "status": status,
        }
        query = {"fieldManager": names.OPERATOR, "force": "true"}
        return await self._call("PATCH", kind.path(namespace, name, "status"), query, body, _APPLY)

    async def _apply(self, wanted: Object, **precondition: str) -> Object | None:
        kind, namespace, name = _place(wanted)
        body = {**wanted, "metadata": {**wanted["metadata"], **precondition}}
        query = {"fieldManager": names.OPERATOR, "force": "true"}
        try:
            return await self._call("PATCH", kind.path(namespace, name), query, body, _APPLY)
        except ClusterError as error:
            # With the uid of another the answer is that a uid can't change.
            other = error.reason == "Invalid" and "metadata.uid: Invalid" in str(error)
            if error.reason == "Conflict" or other:
                return None
            raise

    async def annotate(
        self, kind: ResourceKind, namespace: str, name: str, annotations: Mapping[str, str]
    ) -> Object:
        """Set annotations of an object; return it."""
        body: Object = {"metadata": {"annotations": dict(annotations)}}
        return await self._call("PATCH", kind.path(namespace, name), None, body, _MERGE)

    async def delete(
        self, kind: ResourceKind, namespace: str, name: str, uid: str, *, force: bool = False
    ) -> None:
        """Delete an object and all that it owns, if it is still the one with the uid."""
        body: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        if force:
            body["gracePeriodSeconds"] = 0
        try:
            await self._call("DELETE", kind.path(namespace, name), None, body, _JSON)
        except ClusterError as error:
            # Gone, or another one has its name by now.
            if error.code not in (404, 409):
                raise

    async def serves(self, kind: ResourceKind) -> bool:
        """Whether the API server knows a kind."""
        try:
            found = await self._call("GET", f"/apis/{kind.api_version}")
        except ClusterError as error:
            if error.code == 404:
                return False
            raise
        return any(one["name"] == kind.plural for one in found.get("resources", ()))

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = _JSON,
    ) -> Object:
        if method != "GET":
            self.check()
        headers = {"Content-Type": content_type, "Accept": _JSON, "User-Agent": names.OPERATOR}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{self.configuration.host}{path}"
        if query:
            url = f"{url}?{urlencode(query)}"
        try:
            response = await self._client.rest_client.request(  # type: ignore[no-untyped-call]
                method, url, headers=headers, body=body, _request_timeout=_TIMEOUT_S
            )
            data = await response.read()
        except (OSError, TimeoutError) as error:
            self.answers["0"] += 1
            raise ClusterError(0, "Unreachable", f"{method} {path}: {error!r}") from error
        self.answers[str(response.status)] += 1
        answer = _decode(data)
        if response.status >= 400:
            message = answer.get("message") or response.reason or "no message"
            raise ClusterError(
                response.status, str(answer.get("reason", "")), f"{method} {path}: {message}"
            )
        return answer


def _decode(data: bytes) -> Object:
    try:
        answer = json.loads(data)
    except ValueError:
        return {"message": data.decode(errors="replace")[:500]}
    return answer if isinstance(answer, dict) else {}


def _place(wanted: Object) -> tuple[ResourceKind, str, str]:
    metadata = wanted["metadata"]
    return kind_of(wanted["apiVersion"], wanted["kind"]), metadata["namespace"], metadata["name"]
