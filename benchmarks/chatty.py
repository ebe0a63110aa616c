"""What it costs that a program prints much: a trial of ``trialfleet run`` beside the program alone.

Run with ``python -m benchmarks.chatty [LINES]``. The program alone writes to a pipe that is read as
by ``cat``; the trial's time is that of the storage.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LINES = 50_000
RUNS = 3

PROGRAM = """
for line in range({lines}):
    print("epoch", line, "loss", 1 / (line + 1), "and what else programs tell of themselves")
print("loss=0.5")
"""


def study(program: str) -> str:
    return json.dumps(
        {
            "apiVersion": "trialfleet.dev/v1alpha1",
            "kind": "Study",
            "metadata": {"name": "chatty"},
            "spec": {
                "objectives": [{"name": "loss", "direction": "minimize"}],
                "budget": {"trials": RUNS},
                "searchSpace": {"x": {"float": {"low": 0, "high": 1}}},
                "objective": {
                    "command": {
                        "args": [sys.executable, "-c", program],
                        "metrics": {"loss": {"regex": r"loss=(\S+)"}},
                    }
                },
            },
        }
    )


def alone_s(program: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    return time.monotonic() - began


def trial_s(program: str, folder: Path) -> float:
    manifest = folder / "study.json"
    manifest.write_text(study(program))
    command = [sys.executable, "-m", "trialfleet", "run", str(manifest), "--data", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # The rows of the table: trial, loss, x, seconds.
    return min(float(row) for row in re.findall(r"^ +\d+ .* (\S+)$", done.stdout, re.M))


def main() -> None:
    lines = int(sys.argv[1]) if len(sys.argv) > 1 else LINES
    program = PROGRAM.format(lines=lines)
    alone = min(alone_s(program) for _ in range(RUNS))
    with tempfile.TemporaryDirectory() as folder:
        trial = trial_s(program, Path(folder))
    times = f"alone {alone:.2f} s, as a trial {trial:.2f} s, ratio {trial / alone:.1f}"
    print(f"{lines} lines: {times}")


if __name__ == "__main__":
    main()
