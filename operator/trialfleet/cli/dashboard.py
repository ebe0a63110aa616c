"""``trialfleet dashboard``: studies in a browser, by optuna-dashboard."""

import contextlib
import hmac
import importlib.util
import json
import os
import secrets
import sys
import webbrowser
from collections.abc import Iterable, Iterator
from http.cookies import CookieError, SimpleCookie
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import typer
from optuna.storages import BaseStorage

from trialfleet.cli.credential_options import CaFileOption, TokenFileOption
from trialfleet.cli.sources import (
    ContextOption,
    DataOption,
    NamespaceOption,
    ProxyOption,
    StorageOption,
    StudyArgument,
    Where,
    open_study,
)
from trialfleet.model.errors import InvalidInput

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_HOST: Final = "127.0.0.1"
_INSTALL: Final = "pip install 'trialfleet[dashboard]'"
_KEY: Final = "key"
"""Of the address the parameter, and with the port the cookie, by which this server knows who was
given the address: other users of the machine reach the port too."""
_READING: Final = ("GET", "HEAD")


def dashboard(
    study: StudyArgument = None,
    data: DataOption = None,
    storage: StorageOption = None,
    proxy: ProxyOption = None,
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0: one that is free.")
    ] = 0,
    browser: Annotated[
        bool, typer.Option(help="Open the page, where there is a desktop to open it on.")
    ] = True,
) -> None:
    """Show studies in a browser, until Ctrl-C; nothing can be changed there.

    Of a cluster one study is shown, which its own token opens; elsewhere all of them.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise InvalidInput(
            f"dashboard: needs optuna-dashboard, which is not installed; install it: {_INSTALL}"
        )
    where = Where(data, storage, proxy, token_file, ca_file, namespace, context)
    key = secrets.token_urlsafe(16)
    with _open(where, study) as (trials, page), _listen(trials, port, key) as server:
        url = f"http://{_HOST}:{server.server_port}/dashboard{page}?{_KEY}={key}"
        print(f"{url} (Ctrl-C ends it)", flush=True)
        if browser and _has_desktop():
            webbrowser.open(url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


@contextlib.contextmanager
def _open(where: Where, name: str | None) -> Iterator[tuple[BaseStorage, str]]:
    """Give a storage, and the page of the named study in it. Raises as ``Where.open_study``."""
    with where.open_namespace() as namespace:
        if namespace is None:
            with where.open_storage() as storage:
                yield storage, "" if name is None else _page(storage, name)
            return
        from trialfleet.cluster import connect

        found = connect.find_study(namespace, name)
        with connect.open_trials(namespace, found) as storage:
            yield storage, _page(storage, found["metadata"]["name"])


def _page(storage: BaseStorage, name: str) -> str:
    return f"/studies/{open_study(storage, name)._study_id}"


def _has_desktop() -> bool:
    """Whether a browser would be a window: one of a terminal would take this one."""
    return sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


class _Server(ThreadingMixIn, WSGIServer):
    # A page that is still being read does not hold up the end.
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: a page that is open asks every few seconds."""


class _ReadOnly:
    """Passes on what reads and comes from the page itself, and refuses the rest.

    The page is opened by an address with the key, which becomes a cookie. A page of elsewhere,
    whose own name leads to 127.0.0.1, shows another host than this server's (DNS rebinding).
    """

    def __init__(self, app: "WSGIApplication", port: int, key: str) -> None:
        self._app = app
        self._names = frozenset(f"{name}:{port}" for name in (_HOST, "localhost"))
        # Cookies know no ports: two dashboards at once have one each.
        self._cookie = f"trialfleet-{port}"
        self._key = key

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        host, method = environ.get("HTTP_HOST", ""), environ["REQUEST_METHOD"]
        if host not in self._names:
            reason = f"found the host {host!r}, accepted: {', '.join(sorted(self._names))}"
        elif method not in _READING:
            reason = "this dashboard only reads"
        elif self._is(self._cookies(environ)):
            return self._app(environ, start_response)
        elif self._is(parse_qs(environ.get("QUERY_STRING", "")).get(_KEY, [""])[0]):
            cookie = f"{self._cookie}={self._key}; Path=/; HttpOnly; SameSite=Strict"
            place = environ.get("PATH_INFO", "/")
            start_response("303 See Other", [("Location", place), ("Set-Cookie", cookie)])
            return []
        else:
            reason = "open the address that 'trialfleet dashboard' has printed, with its key"
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [json.dumps({"reason": reason}).encode()]

    def _is(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode(), self._key.encode())

    def _cookies(self, environ: "WSGIEnvironment") -> str:
        with contextlib.suppress(CookieError):
            found = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(self._cookie)
            return "" if found is None else found.value
        return ""


@contextlib.contextmanager
def _listen(storage: BaseStorage, port: int, key: str) -> Iterator[_Server]:
    import optuna_dashboard

    try:
        server = make_server(_HOST, port, _nothing, _Server, _Handler)
    except OSError as error:
        raise InvalidInput(f"--port: found {port}: {error.strerror}, accepted: 0") from error
    with server:
        server.set_app(_ReadOnly(optuna_dashboard.wsgi(storage), server.server_port, key))
        yield server


def _nothing(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Stand in for the application while its port is not known yet."""
    return []
