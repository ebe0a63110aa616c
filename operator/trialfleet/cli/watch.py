"""``trialfleet watch``: a study on a cluster, live."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from trialfleet.cli.sources import ContextOption, NamespaceOption, StudyArgument, open_cluster
from trialfleet.model import errors

if TYPE_CHECKING:
    from trialfleet.cluster.namespace import Namespace


def watch(
    study: StudyArgument = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Show how far a study on a cluster is, until it ends.

    Progress is on standard error, the result on standard output. The exit code is 0 if it is
    complete with a value, else 1.
    """
    from trialfleet.cluster import connect

    with open_cluster(namespace, context) as cluster:
        found = connect.find_study(cluster, study)
        raise typer.Exit(attend(cluster, found["metadata"]["name"]))


def attend(namespace: "Namespace", name: str) -> int:
    """Show a study until it ends; return the exit code."""
    from trialfleet.cluster.namespace import STUDIES
    from trialfleet.cluster.study_progress import Happenings, condition, summarize
    from trialfleet.local.progress import Shown, make_view

    view = None
    study: Mapping[str, Any] | None = None
    ended = None
    try:
        happenings = Happenings(namespace, name)
        for study in namespace.watch(STUDIES, name):
            if study is None:
                break
            if view is None:
                view = make_view(_shown(study, Shown), Console(stderr=True, highlight=False))
            for line in happenings.look(study):
                view.line(line)
            summary = summarize(study)
            view.update(summary, summary.sessions)
            ended = condition(study, "Complete") or condition(study, "Failed")
            if ended is not None:
                break
    except KeyboardInterrupt:
        if view is not None:
            view.line(f"it goes on without you; end it: trialfleet stop {name}")
        return errors.EXIT_INTERRUPTED
    finally:
        if view is not None:
            view.close()
    if study is None or ended is None:
        raise errors.NotFound(f"{name}: somebody has deleted this study")
    _tell(study, ended)
    complete = study.get("status", {}).get("trials", {}).get("complete", 0)
    return errors.EXIT_OK if ended["type"] == "Complete" and complete else errors.EXIT_FAILED


def _shown(study: Mapping[str, Any], kind: type) -> Any:
    spec = study["spec"]
    metrics = tuple(objective["name"] for objective in spec["objectives"])
    return kind(study["metadata"]["name"], metrics, spec.get("budget", {}).get("trials"))


def _tell(study: Mapping[str, Any], ended: Mapping[str, Any]) -> None:
    name, status = study["metadata"]["name"], study["status"]
    message = " ".join(str(ended.get("message") or "").split())
    counts = ", ".join(
        f"{count} {word}" for word, count in status.get("trials", {}).items() if count
    )
    print(f"{name}: {ended['type']}, {ended['reason']}" + (f": {message}" if message else ""))
    print(f"{status.get('progress', '0')} trials ({counts or 'none'})")
    for best in status.get("best", ())[:5]:
        values = ", ".join(f"{key} {value:.6g}" for key, value in best["values"].items())
        params = ", ".join(f"{key}={value}" for key, value in best["params"].items())
        print(f"trial {best['number']}: {values} with {params or 'no parameters'}")
    if ended["type"] == "Failed":
        print(f"what to do: trialfleet why {name}")
