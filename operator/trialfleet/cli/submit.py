"""``trialfleet submit``: a manifest to a cluster."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from trialfleet.api import manifest as manifests
from trialfleet.api.yaml_documents import documents
from trialfleet.cli.sources import ContextOption, NamespaceOption, open_cluster
from trialfleet.cli.watch import attend


def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML with one Study or several.")],
    watch: Annotated[
        bool, typer.Option(help="Show how far the study is, until it ends, if it is one.")
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Take over fields that somebody else has set.")
    ] = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Check a manifest as 'trialfleet validate' does, apply it to a cluster, and watch the study.

    It is applied on the server's side, by the field manager 'trialfleet'. Ctrl-C ends the watching,
    not the study.
    """
    from trialfleet.cluster import submission as submitting

    for notice in manifests.read(file).notices:
        print(f"{notice} (notice)", file=sys.stderr)
    objects = [one.content for one in documents(file.read_text(encoding="utf-8")) if one.content]
    with open_cluster(namespace, context) as cluster:
        applied = list(submitting.apply(cluster, file, objects, force=force))
        for one in applied:
            print(one, file=sys.stderr)
        studies = [one for one in applied if one.kind == "Study"]
        if watch and len(studies) == 1:
            raise typer.Exit(attend(cluster.at(studies[0].namespace), studies[0].name))
        for one in studies:
            print(f"watch it: trialfleet watch {one.name} --namespace {one.namespace}")
