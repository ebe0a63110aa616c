"""Katib's trial template, as a command and the template of the workers that run it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from trialfleet.api.suggestions import found, listed
from trialfleet.transfer.katib.fields import Fields

_PLACEHOLDER: Final = re.compile(r"\$\{trialParameters\.(.+?)\}|\$\{trialSpec\.(.+?)\}")
_META: Final = re.compile(r"^\$\{trialSpec\.(.+?)\}$")
_KEYED: Final = re.compile(r"^(Labels|Annotations)\[(.+)\]$")
# Kubernetes replaces $(NAME) of a container's own variables, and reads $$ as $.
_VARIABLE: Final = re.compile(r"\$\$|\$\(([^()]*)\)")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_]\w*")
_OF_CONTAINER: Final = "accepted: a Job whose pod has one container with a command"
_WORKER: Final = "worker"


@dataclass(frozen=True, slots=True)
class Program:
    """What runs a trial, and the pod that it runs in."""

    args: list[str]
    env: dict[str, str]
    """Of ``objective.command``: variables that differ from trial to trial."""
    template: dict[str, Any]
    trial_timeout_s: int | None


@dataclass
class _Texts:
    """Replaces Katib's placeholders by those of ``objective.command``."""

    references: dict[str, str]
    """What a trial parameter refers to: a parameter, or ``${trialSpec...}``."""
    study: str
    namespace: str | None
    job: Mapping[str, Any]
    variables: dict[str, str] = field(default_factory=dict)
    """Of the container, converted."""
    without_value: set[str] = field(default_factory=set)
    """Variables whose values come from elsewhere."""
    has_others: bool = False
    """Whether there may be more of them, by envFrom."""

    def convert(self, text: str, at: Fields, key: str) -> str:
        """Return a text of args or of a variable.

        Raises:
            InvalidInput: It has a placeholder for what a study does not know.
        """
        parts, end = list[str](), 0
        for match in _PLACEHOLDER.finditer(text):
            parts.append(self._plain(text[end : match.start()], at, key))
            end = match.end()
            if match[2] is not None:
                parts.append(self._meta(match[2], at, key))
                continue
            reference = self.references.get(match[1])
            if reference is None:
                raise at.refusal(
                    key,
                    f"found {found(match[0])}, accepted: one of trialParameters: "
                    f"{listed(self.references, len(self.references))}",
                )
            meta = _META.match(reference)
            parts.append(self._meta(meta[1], at, key) if meta else f"$({reference})")
        return "".join([*parts, self._plain(text[end:], at, key)])

    def _plain(self, text: str, at: Fields, key: str) -> str:
        parts, end = list[str](), 0
        for match in _VARIABLE.finditer(text):
            parts.append(_escaped(text[end : match.start()]))
            end = match.end()
            if match[1] is None:
                parts.append("$$")
                continue
            if match[1] in self.without_value or (
                self.has_others
                and match[1] not in self.variables
                and _IDENTIFIER.fullmatch(match[1])
            ):
                at.tell(
                    key,
                    f"found {found(match[0])}, whose value comes from elsewhere: passed on as it "
                    "is, for no one replaces it; use a shell and $NAME",
                )
            parts.append(self.variables.get(match[1], _escaped(match[0])))
        return "".join([*parts, _escaped(text[end:])])

    def _meta(self, name: str, at: Fields, key: str) -> str:
        keyed = _KEYED.match(name)
        if name == "Name":
            return f"{_escaped(self.study)}-$(TRIALFLEET_TRIAL_NUMBER)"
        value: object = None
        if name == "Namespace":
            value = self.namespace
        elif name in ("Kind", "APIVersion"):
            value = self.job.get("kind" if name == "Kind" else "apiVersion")
        elif keyed:
            metadata = self.job.get("metadata")
            group = metadata.get(keyed[1].lower()) if isinstance(metadata, Mapping) else None
            value = group.get(keyed[2]) if isinstance(group, Mapping) else None
        if not isinstance(value, str):
            raise at.refusal(key, f"found {found('${trialSpec.' + name + '}')}, which has no value")
        return _escaped(value)


def _escaped(text: str) -> str:
    """Return a text that ``fill`` leaves as it is, whatever follows it."""
    return re.sub(r"\$(?=[$(]|\Z)", "$$", text)


def program(spec: Fields, space: Mapping[str, Any], study: str, namespace: str | None) -> Program:
    """Return what runs the trials of an experiment.

    Raises:
        InvalidInput: The trial template is no Job of one container with a command.
    """
    trial = spec.object("trialTemplate")
    if trial is None:
        raise spec.refusal("trialTemplate", "missing, accepted: an object with trialSpec")
    references = _references(trial, space)
    if trial.any("configMap") is not None:
        raise trial.refusal(
            "configMap", "the template is in another object; accepted: trialSpec, with its text"
        )
    content = trial.any("trialSpec")
    if not isinstance(content, Mapping):
        raise trial.refusal("trialSpec", f"found {found(content)}, accepted: an object")
    kind, version = content.get("kind"), content.get("apiVersion")
    job = Fields(content, (*trial.path, "trialSpec"), trial.notes)
    if (kind, version) != ("Job", "batch/v1"):
        raise job.refusal(
            None,
            f"a {kind} ({version}) for each trial is not run yet: objective.job is not "
            f"available; {_OF_CONTAINER}",
        )
    # Without a Job for each trial there is nothing for these to look at.
    for key in ("primaryContainerName", "successCondition", "failureCondition"):
        trial.any(key)
    trial.any("primaryPodLabels")
    if trial.any("retain"):
        trial.tell("retain", "no equivalent: a worker's pod runs many trials; see trialfleet logs")
    texts = _Texts(references, study, namespace, content)
    trial.close()
    return _of_job(job, texts)


def _references(trial: Fields, space: Mapping[str, Any]) -> dict[str, str]:
    references: dict[str, str] = {}
    for parameter in trial.objects("trialParameters"):
        parameter.any("description")
        name, reference = parameter.text("name"), parameter.text("reference")
        if reference not in space and not _META.match(reference):
            raise parameter.refusal(
                "reference",
                f"found {found(reference)}, accepted: a parameter: {listed(space, len(space))}",
            )
        references[name] = reference
        parameter.close()
    return references


def _of_job(job: Fields, texts: _Texts) -> Program:
    job.any("apiVersion")
    job.any("kind")
    if job.any("metadata"):
        job.tell("metadata", "of a Job for each trial, which a study does not have: left out")
    spec = job.object("spec")
    template = spec.object("template") if spec is not None else None
    pod = template.object("spec") if template is not None else None
    if spec is None or template is None or pod is None:
        raise job.refusal("spec", f"found no template of a pod, {_OF_CONTAINER}")
    for key in ("parallelism", "completions"):
        count = spec.integer(key)
        if count is not None and count > 1:
            raise spec.refusal(key, f"found {count}: several pods a trial, {_OF_CONTAINER}")
    for key in ("ttlSecondsAfterFinished", "completionMode", "manualSelector"):
        spec.any(key)
    if spec.integer("backoffLimit"):
        spec.tell("backoffLimit", "a program that fails is not run again: left out")
    limits = [spec.integer("activeDeadlineSeconds"), pod.integer("activeDeadlineSeconds")]
    restart = pod.any("restartPolicy")
    if restart == "OnFailure":
        pod.tell("restartPolicy", "a program that fails is not run again: left out")
    containers = pod.objects("containers")
    if len(containers) != 1:
        raise pod.refusal("containers", f"found {len(containers)}, {_OF_CONTAINER}")
    if (first := pod.any("initContainers")) is not None:
        pod.tell("initContainers", "run once a worker, not once a trial")
    args, env, worker = _of_container(containers[0], texts)
    kept: dict[str, Any] = {"containers": [worker]}
    if first is not None:
        kept["initContainers"] = first
    kept |= pod.rest()
    result: dict[str, Any] = {"spec": kept}
    if metadata := template.any("metadata"):
        result = {"metadata": metadata, **result}
    _refuse_placeholders(result, pod)
    for part in (template, spec, job):
        part.close()
    given = [limit for limit in limits if limit is not None]
    return Program(args, env, result, min(given) if given else None)


def _of_container(
    container: Fields, texts: _Texts
) -> tuple[list[str], dict[str, str], dict[str, Any]]:
    container.any("name")
    others = container.any("envFrom")
    texts.has_others = bool(others)
    variables: dict[str, str] = {}
    kept = list[dict[str, Any]]()
    for variable in container.objects("env"):
        name, value = variable.text("name"), variable.any("value")
        if value is None:
            texts.without_value.add(name)
            kept.append({"name": name, **variable.rest()})
            continue
        variable.close()
        text = str(value)
        texts.variables[name] = texts.convert(text, variable, "value")
        if _PLACEHOLDER.search(text) or any(
            f"$({other})" in text for other in variables if other != name
        ):
            variables[name] = texts.variables[name]
        else:
            kept.append({"name": name, "value": text})
    command, more = container.items("command"), container.items("args")
    if not command:
        raise container.refusal(
            "command", "missing: what an image starts by itself is not known here; accepted: a list"
        )
    args = [texts.convert(str(word), container, "command") for word in command]
    args += [texts.convert(str(word), container, "args") for word in more]
    worker: dict[str, Any] = {"name": _WORKER}
    if others:
        worker["envFrom"] = others
    worker |= container.rest()
    if kept:
        worker["env"] = kept
    container.tell(
        "image",
        "the program runs beside a worker: build the image on the worker's, or install "
        "trialfleet in it",
    )
    return args, variables, worker


def _refuse_placeholders(template: dict[str, Any], pod: Fields) -> None:
    waiting: list[Any] = [template]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str) and (match := _PLACEHOLDER.search(part)):
            raise pod.refusal(
                None,
                f"found {found(match[0])} outside of command, args and the value of a variable; a "
                "worker's pod runs many trials, so it can't differ from trial to trial",
            )
        if isinstance(part, Mapping):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            waiting += part
