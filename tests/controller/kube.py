"""A small synchronous client, for tests: against the stand-in or a real cluster."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from kubernetes import config

from trialfleet import names

Object = dict[str, Any]
T = TypeVar("T")

_GROUPS = {
    "pods": "api/v1",
    "events": "api/v1",
    "secrets": "api/v1",
    "configmaps": "api/v1",
    "services": "api/v1",
    "namespaces": "api/v1",
    "persistentvolumeclaims": "api/v1",
    "resourcequotas": "api/v1",
    "nodes": "api/v1",
    "statefulsets": "apis/apps/v1",
    "daemonsets": "apis/apps/v1",
    "deployments": "apis/apps/v1",
    "jobs": "apis/batch/v1",
    "cronjobs": "apis/batch/v1",
    "networkpolicies": "apis/networking.k8s.io/v1",
    "poddisruptionbudgets": "apis/policy/v1",
    "leases": "apis/coordination.k8s.io/v1",
    "studies": f"apis/{names.API_VERSION}",
    "studystorages": f"apis/{names.API_VERSION}",
}


class KubeError(Exception):
    """An error that the API server answered."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code, self.reason = code, reason


class Kube:
    """One namespace of a cluster."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.kubeconfig, self.namespace = kubeconfig, namespace
        self._client = config.new_client_from_config(  # type: ignore[no-untyped-call]
            config_file=str(kubeconfig)
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.rest_client.pool_manager.clear()

    def get(self, resource: str, name: str) -> Object:
        """Return an object."""
        return self.call("GET", self._path(resource, name))

    def find(self, resource: str, name: str) -> Object | None:
        """Return an object, or None."""
        try:
            return self.get(resource, name)
        except KubeError as error:
            if error.code == 404:
                return None
            raise

    def list(self, resource: str, **labels: str) -> list[Object]:
        """Return objects; labels by their last part, as ``component="worker"``."""
        selector = ",".join(f"{names.DOMAIN}/{key}={text}" for key, text in labels.items())
        query = {"labelSelector": selector} if selector else None
        found = self.call("GET", self._path(resource), query)
        items: list[Object] = found["items"]
        return items

    def create(self, resource: str, obj: Mapping[str, Any]) -> Object:
        """Create an object."""
        return self.call("POST", self._path(resource), None, dict(obj))

    def apply(
        self, resource: str, obj: Mapping[str, Any], manager: str = "kubectl", force: bool = False
    ) -> Object:
        """Server-side apply."""
        query = {"fieldManager": manager, "force": str(force).lower()}
        path = self._path(resource, obj["metadata"]["name"])
        return self.call("PATCH", path, query, dict(obj), "application/apply-patch+yaml")

    def replace(self, resource: str, obj: Mapping[str, Any]) -> Object:
        """Replace an object, if it is still of the version that was read."""
        return self.call("PUT", self._path(resource, obj["metadata"]["name"]), None, dict(obj))

    def patch(self, resource: str, name: str, patch: Mapping[str, Any], sub: str = "") -> Object:
        """Merge patch, as ``kubectl patch`` and ``kubectl scale`` do."""
        path = "/".join(filter(None, (self._path(resource, name), sub)))
        return self.call("PATCH", path, None, dict(patch), "application/merge-patch+json")

    def delete(self, resource: str, name: str, **options: Any) -> None:
        """Delete an object."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        self.call("DELETE", self._path(resource, name), None, body)

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """Make a request."""
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{self._client.configuration.host}/{path}"
        if query:
            url = f"{url}?{urlencode(query)}"
        try:
            response = self._client.rest_client.request(method, url, headers=headers, body=body)
            status, data = response.status, response.read()
        except Exception as error:
            status, data = getattr(error, "status", 0), getattr(error, "body", "") or "{}"
            if not status:
                raise
        answer: Object = json.loads(data)
        if status >= 400:
            raise KubeError(status, answer.get("reason", ""), answer.get("message", ""))
        return answer

    def stream(self, path: str, query: Mapping[str, str]) -> Iterator[Object]:
        """Yield the events of a watch."""
        headers: dict[str, str] = {"Accept": "application/json"}
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
        url = f"{self._client.configuration.host}/{path}?{urlencode(query)}"
        response = self._client.rest_client.pool_manager.request(
            "GET", url, headers=headers, preload_content=False
        )
        try:
            pending = b""
            for chunk in response.stream(65536):
                *lines, pending = (pending + chunk).split(b"\n")
                yield from (json.loads(line) for line in lines)
        finally:
            response.close()
            response.release_conn()

    def _path(self, resource: str, name: str = "") -> str:
        parts = [_GROUPS[resource]]
        if resource not in ("namespaces", "nodes"):
            parts.append(f"namespaces/{self.namespace}")
        return "/".join(filter(None, (*parts, resource, name)))


def wait_for(what: str, look: Callable[[], T | None], timeout_s: float = 60.0) -> T:
    """Return what ``look`` returns as soon as it is something; fail after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.1)


def condition(obj: Mapping[str, Any], kind: str) -> Object | None:
    """Return a condition of an object that is true."""
    for one in obj.get("status", {}).get("conditions", ()):
        if one["type"] == kind and one["status"] == "True":
            found: Object = one
            return found
    return None
