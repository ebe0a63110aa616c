"""What the stand-in's kubelet needs to run containers as processes."""

import asyncio
import base64
import datetime
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.controller.standin.objects import Object, timestamp
from trialfleet.local import postgres

DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
"""However the tests end, what they started ends with them. By a program: Python that runs between
fork and exec may crash where gRPC has threads."""

_PACKAGE = Path(__file__).parents[3] / "operator"

_POSTGRES = Path(__file__).with_name("postgres.py")

SERVICE = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\.cluster\.local)?")

SERVICES_S = 10.0
"""For the Services that a container calls to be made; others are names of somebody else's."""


def make_programs(folder: Path) -> None:
    """Make a folder with the programs of the images that containers run."""
    folder.mkdir()
    for name, program in (
        ("trialfleet", f'"{sys.executable}" -m trialfleet.cli.main'),
        ("postgres", f'"{sys.executable}" {_POSTGRES}'),
    ):
        shim = folder / name
        shim.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        shim.chmod(0o755)
    for name in ("pg_dump", "pg_isready", "pg_restore", "psql"):
        (folder / name).symlink_to(postgres.find_binaries() / name)


async def execute(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program to its end, or until this is cancelled; return its exit code."""
    process = await asyncio.create_subprocess_exec(*DIE_WITH_PARENT, *command, env=environment)
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def services_of(container: Object) -> set[tuple[str, str]]:
    """Return namespace and name of the Services that a container's variables name."""
    text = " ".join(str(one.get("value", "")) for one in container.get("env", ()))
    return {(match[2], match[1]) for match in SERVICE.finditer(text)}


def begun(pod: Object) -> Object:
    pod["status"] = {**pod.get("status", {}), "startTime": now()}
    return pod


def data_of(obj: Object) -> dict[str, bytes]:
    """Return the data of a ConfigMap or Secret."""
    data = {key: str(text).encode() for key, text in obj.get("stringData", {}).items()}
    if obj["kind"] == "Secret":
        return data | {key: base64.b64decode(text) for key, text in obj.get("data", {}).items()}
    return data | {key: text.encode() for key, text in obj.get("data", {}).items()}


def set_condition(status: Object, kind: str, value: bool) -> None:
    others = [one for one in status.get("conditions", ()) if one["type"] != kind]
    status["conditions"] = [*others, {"type": kind, "status": "True" if value else "False"}]


def terminated(log: Path, code: int) -> Object:
    """Return the state of a container that has ended, with its last words if it failed."""
    said = log.read_text(errors="replace")[-2048:] if code and log.exists() else ""
    return {
        "exitCode": code,
        "reason": "Completed" if code == 0 else "Error",
        "message": said,
        "finishedAt": now(),
    }


def base_environment(folder: Path) -> dict[str, str]:
    kept = {key: os.environ[key] for key in ("HOME", "LANG", "TMPDIR") if key in os.environ}
    return {
        **kept,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(_PACKAGE),
        "PYTHONUNBUFFERED": "1",
    }


def now() -> str:
    return timestamp(datetime.datetime.now(datetime.UTC))
