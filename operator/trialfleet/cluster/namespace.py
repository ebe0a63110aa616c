"""One namespace of a cluster, through its API server, with the rights of a kubeconfig's user."""

import contextlib
import datetime
import json
import logging
import math
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlencode

import urllib3
from kubernetes import client as api
from kubernetes import config

from trialfleet import names
from trialfleet.model import errors

Object = dict[str, Any]
"""An object of Kubernetes, as in JSON."""

FIELD_MANAGER: Final = "trialfleet"

_JSON: Final = "application/json"
_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"

_CONNECT_S: Final = 10.0
_ANSWER_S: Final = 60.0
_WATCH_S: Final = 240
"""The API server ends a watch after so long; it is begun again from where it was."""

_POOL: Final = 32

_ACCOUNT_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Resource(NamedTuple):
    """Where the API server has the objects of a kind."""

    api_version: str
    plural: str


STUDIES: Final = Resource(names.API_VERSION, "studies")
STORAGES: Final = Resource(names.API_VERSION, "studystorages")
PODS: Final = Resource("v1", "pods")
SECRETS: Final = Resource("v1", "secrets")
CONFIG_MAPS: Final = Resource("v1", "configmaps")
EVENTS: Final = Resource("v1", "events")


class ApiError(errors.TrialfleetError):
    """The API server refused a request."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        """One word of the API server's, such as ``Conflict``."""


class Namespace:
    """A namespace of a cluster: ``with Namespace.open(...) as namespace``.

    For one thread at a time, but for :attr:`client`. Every method raises
    :class:`~trialfleet.model.errors.ClusterUnavailable` if the API server does not answer,
    :class:`~trialfleet.model.errors.PermissionDenied` if the user may not do what was asked, and
    :class:`ApiError` for any other refusal.
    """

    def __init__(self, client: api.ApiClient, name: str, context: str) -> None:
        """Take a client that is logged in; :meth:`open` makes one."""
        self.client = client
        self.name = name
        self.context = context

    @classmethod
    def open(cls, namespace: str | None = None, context: str | None = None) -> Self:
        """Read the kubeconfig; in a pod without one, use the pod's own account.

        Args:
            namespace: The context's own if None.
            context: The kubeconfig's current one if None.

        Raises:
            InvalidInput: There is no kubeconfig, or no such context in it.
        """
        settings = api.Configuration()
        # A refused connection is told at once, and not written to the log three times.
        settings.retries = urllib3.Retry(0)
        # As many logs may be followed at once; one more connection is not worth a line in the log.
        settings.connection_pool_maxsize = _POOL
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        if context is None and not has_kubeconfig() and _ACCOUNT_NAMESPACE.is_file():
            config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=settings
            )
            own = _ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip()
            return cls(api.ApiClient(settings), namespace or own, "this pod's cluster")
        found = _context(context)
        try:
            config.load_kube_config(  # type: ignore[no-untyped-call]
                context=found["name"], client_configuration=settings
            )
        except config.ConfigException as error:
            raise errors.InvalidInput(f"kubeconfig: context {found['name']!r}: {error}") from error
        own = found["context"].get("namespace") or "default"
        return cls(api.ApiClient(settings), namespace or own, found["name"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.rest_client.pool_manager.clear()
        self.client.close()  # type: ignore[no-untyped-call]

    def __str__(self) -> str:
        return f"namespace {self.name}, context {self.context}"

    def at(self, name: str) -> "Namespace":
        """Return another namespace of the same cluster, over the same connections."""
        return Namespace(self.client, name, self.context)

    def resource(self, api_version: str, kind: str) -> Resource | None:
        """Return where the API server has a kind of objects in namespaces; None if nowhere."""
        root = "apis" if "/" in api_version else "api"
        try:
            found = self._call("GET", f"/{root}/{api_version}")
        except errors.InvalidInput:
            return None
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        for one in found.get("resources", ()):
            if one["kind"] == kind and one["namespaced"] and "/" not in one["name"]:
                return Resource(api_version, one["name"])
        return None

    def find(self, resource: Resource, name: str) -> Object | None:
        """Return an object, or None if there is none of that name."""
        try:
            return self._call("GET", self._path(resource, name))
        except ApiError as error:
            if error.code == 404 and error.reason == "NotFound" and name in str(error):
                return None
            raise

    def list(self, resource: Resource, *, labels: str = "", fields: str = "") -> list[Object]:
        """Return the objects that a label selector and a field selector select."""
        query = {"labelSelector": labels, "fieldSelector": fields}
        found = self._call("GET", self._path(resource), _given(query))
        items: list[Object] = found.get("items", [])
        return items

    def apply(self, resource: Resource, obj: Mapping[str, Any], *, force: bool) -> Object:
        """Apply an object on the server's side; with ``force`` also fields that others own."""
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower()}
        path = self._path(resource, obj["metadata"]["name"])
        return self._call("PATCH", path, query, obj, _APPLY)

    def patch(
        self, resource: Resource, name: str, patch: Mapping[str, Any], subresource: str = ""
    ) -> Object:
        """Change an object by a merge patch."""
        path = "/".join(filter(None, (self._path(resource, name), subresource)))
        return self._call("PATCH", path, {"fieldManager": FIELD_MANAGER}, patch, _MERGE)

    def watch(
        self, resource: Resource, name: str, *, look_s: float | None = None
    ) -> Iterator[Object | None]:
        """Yield an object now and after every change; None when it is gone, as the last.

        ``look_s``: it is yielded after so many seconds also without a change.
        """
        watch_s = _WATCH_S if look_s is None else min(_WATCH_S, max(1, math.ceil(look_s)))
        while True:
            found = self.find(resource, name)
            yield found
            if found is None:
                return
            query = {
                "watch": "true",
                "fieldSelector": f"metadata.name={name}",
                "resourceVersion": found["metadata"]["resourceVersion"],
                "timeoutSeconds": str(watch_s),
            }
            for line in self._lines(self._path(resource), query, _WATCH_S + _CONNECT_S):
                change = json.loads(line)
                if change["type"] == "ERROR":
                    break
                if change["type"] == "DELETED":
                    yield None
                    return
                yield change["object"]

    def log(self, pod: str, container: str, *, last: int | None, previous: bool = False) -> str:
        """Return what a container wrote, or its last lines; empty if there is nothing to read."""
        query = {"container": container, "tailLines": "" if last is None else str(last)}
        if previous:
            query["previous"] = "true"
        try:
            return self._text(self._path(PODS, f"{pod}/log"), _given(query))
        except ApiError as error:
            if error.code in (400, 404):
                # It has not begun, or is gone.
                return ""
            raise

    def log_since(
        self, pod: str, container: str, moment: datetime.datetime
    ) -> Generator[str, None, None]:
        """Yield what a container wrote from a moment on, line by line."""
        since = moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        query = {"container": container, "sinceTime": since}
        try:
            yield from self._lines(self._path(PODS, f"{pod}/log"), query, _ANSWER_S)
        except ApiError as error:
            if error.code not in (400, 404):
                raise

    def follow_log(self, pod: str, container: str, *, last: int | None) -> Iterator[str]:
        """Yield what a container wrote and writes, line by line, until it ends.

        Another thread may go on with it.
        """
        query = {"container": container, "follow": "true"}
        if last is not None:
            query["tailLines"] = str(last)
        try:
            yield from self._lines(self._path(PODS, f"{pod}/log"), query, None)
        except ApiError as error:
            if error.code not in (400, 404):
                raise

    def _path(self, resource: Resource, name: str = "") -> str:
        root = "apis" if "/" in resource.api_version else "api"
        parts = (root, resource.api_version, "namespaces", self.name, resource.plural, name)
        return "/" + "/".join(filter(None, parts))

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = _JSON,
    ) -> Object:
        text = None if body is None else json.dumps(body)
        response = self._request(method, path, query, text, content_type, _ANSWER_S)
        answer: Object = json.loads(response.data)
        return answer

    def _text(self, path: str, query: Mapping[str, str]) -> str:
        return self._request("GET", path, query, None, _JSON, _ANSWER_S).data.decode(
            errors="replace"
        )

    def _lines(self, path: str, query: Mapping[str, str], silence_s: float | None) -> Iterator[str]:
        """Yield the lines of an answer as they come; ends also when the connection breaks."""
        response = self._request("GET", path, query, None, _JSON, silence_s, whole=False)
        pending = b""
        try:
            while chunk := response.read1(65536):
                *lines, pending = (pending + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if pending:
                yield pending.decode(errors="replace")
        except urllib3.exceptions.HTTPError:
            pass
        finally:
            response.close()

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: str | None,
        content_type: str,
        silence_s: float | None,
        *,
        whole: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Content-Type": content_type, "Accept": "application/json, */*"}
        headers["User-Agent"] = FIELD_MANAGER
        settings = self.client.configuration
        self.client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{settings.host}{path}"
        if query:
            url = f"{url}?{urlencode(query)}"
        try:
            response: urllib3.BaseHTTPResponse = self.client.rest_client.pool_manager.request(
                method,
                url,
                body=body,
                headers=headers,
                preload_content=whole,
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=silence_s),
            )
        except urllib3.exceptions.HTTPError as error:
            why = getattr(error, "reason", None) or error
            raise errors.ClusterUnavailable(
                f"no answer from the API server at {settings.host} "
                f"(context {self.context}): {_plain(why)}"
            ) from error
        if response.status >= 400:
            raise self._refusal(response)
        return response

    def _refusal(self, response: urllib3.BaseHTTPResponse) -> errors.TrialfleetError:
        said: Object = {}
        with contextlib.suppress(ValueError):
            said = json.loads(response.data)
        code, reason = response.status, said.get("reason", "")
        message = said.get("message") or f"the API server answers {code}"
        if code == 401:
            return errors.PermissionDenied(
                f"the API server does not know who you are (context {self.context}): {message}; "
                f"log in again as for kubectl"
            )
        if code == 403 and reason == "Forbidden" and "cannot" in message:
            return errors.PermissionDenied(
                f"{message} (context {self.context}); ask for this right: docs/terminal.md has "
                "a Role with all that this command needs"
            )
        if (code == 404 and reason != "NotFound") or "could not find the requested" in message:
            return errors.InvalidInput(
                f"context {self.context}: this cluster has no {names.API_VERSION}; accepted: one "
                "where Trialfleet is installed (helm install, see docs/install.md), or another "
                "--context"
            )
        return ApiError(code, reason, message)


def has_kubeconfig() -> bool:
    """Whether there is a kubeconfig with a current context."""
    with contextlib.suppress(errors.InvalidInput):
        _context(None)
        return True
    return False


def _context(name: str | None) -> dict[str, Any]:
    try:
        contexts, current = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        where = os.environ.get("KUBECONFIG") or "~/.kube/config"
        raise errors.InvalidInput(
            f"kubeconfig: {where}: {_plain(error)}; accepted: a file that KUBECONFIG names, with "
            "a current context"
        ) from error
    if name is None:
        found: dict[str, Any] = current
        return found
    for one in contexts:
        if one["name"] == name:
            return dict(one)
    listed = ", ".join(sorted(one["name"] for one in contexts))
    raise errors.InvalidInput(f"--context: found {name!r}, accepted: {listed}")


def _given(query: Mapping[str, str]) -> dict[str, str]:
    return {key: text for key, text in query.items() if text}


def _plain(error: object) -> str:
    """Return an error's words in one line, without the address of a Python object."""
    text = " ".join(str(error).split())
    _, found, rest = text.partition("object at 0x")
    return rest.partition(": ")[2] if found else text
