"""The command line, as a user of a cluster has it."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.local.running import COMMAND


@dataclass
class Terminal:
    """Runs commands in a folder, with a kubeconfig, for a namespace."""

    kubeconfig: Path
    folder: Path
    namespace: str

    def run(self, *arguments: str, at: Sequence[str] | None = None) -> tuple[int, str, str]:
        """Run a command to its end; return its exit code, standard output and standard error.

        ``at``: options that say where, instead of the namespace.
        """
        where = ("--namespace", self.namespace) if at is None else at
        done = subprocess.run(
            [*COMMAND, *arguments, *where],
            cwd=self.folder,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command, and return it as it runs."""
        return subprocess.Popen(
            [*COMMAND, *arguments, "--namespace", self.namespace],
            cwd=self.folder,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            stdout=subprocess.PIPE,
            text=True,
        )

    def good(self, *arguments: str) -> str:
        """Run a command that succeeds; return what it wrote to standard output."""
        code, output, told = self.run(*arguments)
        assert code == 0, f"{code}: {told}\n{output}"
        return output

    def bad(self, *arguments: str, code: int = 2, at: Sequence[str] | None = None) -> str:
        """Run a command that fails with a code; return its last line of standard error."""
        found, output, told = self.run(*arguments, at=at)
        assert found == code, f"{found}: {told}\n{output}"
        assert "Traceback" not in told
        return told.splitlines()[-1]
