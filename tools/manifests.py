"""Render the chart into one file for ``kubectl apply --server-side -f``, for those without Helm."""

import argparse
from pathlib import Path
from typing import Final

import helm_python
import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "charts" / "trialfleet"

# kubectl makes objects in the order of the file, and what is needed first has to be there first.
ORDER: Final = ("crds.yaml", "serviceaccount.yaml", "rbac.yaml", "user-roles.yaml")

NAMESPACE: Final = """\
apiVersion: v1
kind: Namespace
metadata:
  name: {name}
  labels:
    pod-security.kubernetes.io/enforce: restricted
---
"""


def render(namespace: str, values: dict[str, object]) -> str:
    """Return the objects of a release named trialfleet, as one text."""
    with helm_python.Chart.load(str(CHART)) as chart:
        rendered = chart.render(values, name="trialfleet", namespace=namespace)
    texts = {Path(path).name: text.strip() for path, text in rendered.items()}
    del texts["NOTES.txt"]
    names = sorted(texts, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    documents = (texts[name].removeprefix("---").strip() for name in names if texts[name])
    return "\n---\n".join(documents).replace("managed-by: Helm", "managed-by: kubectl") + "\n"


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespace", default="trialfleet-system", help="the operator's")
    parser.add_argument("--values", type=Path, help="a file of values, as for Helm")
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "trialfleet.yaml")
    options = parser.parse_args()
    values = yaml.safe_load(options.values.read_text(encoding="utf-8")) if options.values else None
    text = NAMESPACE.format(name=options.namespace) + render(options.namespace, values or {})
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text, encoding="utf-8")
    print(f"kubectl apply --server-side -f {options.output}")


if __name__ == "__main__":
    main()
