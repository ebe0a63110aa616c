"""PostgreSQL in the stand-in's pods: the official image's interface, on the embedded server.

Run as ``postgres``: makes the database as the variables of the image say and starts the server, or
with ``--single`` runs statements. The server is built without OpenSSL: such a storage has no TLS.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from trialfleet.local import postgres as installed


def run(arguments: list[str], text: str = "") -> None:
    """Run one of PostgreSQL's programs to its end."""
    user = _user()
    done = subprocess.run(
        arguments,
        input=text,
        text=True,
        capture_output=True,
        check=False,
        user=user.get("user"),
        group=user.get("group"),
    )
    if done.returncode:
        sys.exit(f"{arguments[0]}: {done.stdout} {done.stderr}")


def initialize(binaries: Path, data: Path) -> None:
    """Make the data and the database, under another name first: pods are killed at any time."""
    user = os.environ["POSTGRES_USER"]
    password = Path(os.environ["POSTGRES_PASSWORD_FILE"]).read_text()
    unfinished = data.with_name(f"{data.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    shutil.chown(unfinished, **_user())
    given = os.environ["POSTGRES_INITDB_ARGS"].split()
    run([str(binaries / "initdb"), "-D", str(unfinished), "-U", user, *given, "--no-sync"])
    statements = f"ALTER ROLE {user} PASSWORD '{password}'\nCREATE DATABASE {user}\n"
    single = ["--single", "-D", str(unfinished), "-c", "exit_on_error=on", "postgres"]
    run([str(binaries / "postgres"), *single], statements)
    unfinished.rename(data)


def main() -> None:
    """Do what the image does with the arguments of the container."""
    binaries, data, user = installed.find_binaries(), Path(os.environ["PGDATA"]), _user()
    arguments = sys.argv[1:]
    if "--single" not in arguments:
        if not (data / "PG_VERSION").exists():
            initialize(binaries, data)
        address = os.environ["STANDIN_ADDRESS"]
        arguments += ["-c", f"listen_addresses={address}", "-c", "unix_socket_directories="]
        arguments += ["-c", "fsync=off"]
    server = subprocess.Popen(
        [str(binaries / "postgres"), *arguments],
        user=user.get("user"),
        group=user.get("group"),
        extra_groups=[] if user else None,
    )
    # The image's signal to stop: without waiting for clients.
    signal.signal(signal.SIGTERM, lambda *_: server.send_signal(signal.SIGINT))
    sys.exit(server.wait())


def _user() -> dict[str, int]:
    if os.geteuid() != 0:
        return {}
    user, group = installed.system_user()
    return {"user": user, "group": group}


if __name__ == "__main__":
    main()
