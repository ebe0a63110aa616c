"""Notebooks, executed by a real kernel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbclient
import nbformat


def execute(
    folder: Path, cells: list[str], environment: Mapping[str, str]
) -> list[list[dict[str, Any]]]:
    """Run a notebook in a folder; return the outputs of each cell. Raises what a cell raised."""
    notebook = nbformat.v4.new_notebook(  # type: ignore[no-untyped-call]
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells]  # type: ignore[no-untyped-call]
    )
    resources = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(notebook, timeout=240, resources=resources)
    client.execute(env=dict(environment))
    return [cell["outputs"] for cell in notebook["cells"]]


def printed(outputs: list[dict[str, Any]]) -> str:
    """Return what a cell printed on standard output."""
    return "".join(
        output["text"]
        for output in outputs
        if output["output_type"] == "stream" and output["name"] == "stdout"
    )


def has_widget(outputs: list[dict[str, Any]]) -> bool:
    """Whether a cell shows a widget, such as a progress bar."""
    kind = "application/vnd.jupyter.widget-view+json"
    return any(kind in output.get("data", {}) for output in outputs)
