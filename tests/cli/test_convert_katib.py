"""Experiments of Katib become studies that validate, and what differs is told."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from trialfleet.api.manifest import read
from trialfleet.model.errors import InvalidInput
from trialfleet.transfer.katib.experiment import Converted, convert

PARAMETERS = [
    {
        "name": "lr",
        "parameterType": "double",
        "feasibleSpace": {"min": "0.001", "max": "0.1", "distribution": "logUniform"},
    },
    {
        "name": "num-layers",
        "parameterType": "int",
        "feasibleSpace": {"min": "2", "max": "8", "step": "2"},
    },
    {"name": "batch", "parameterType": "discrete", "feasibleSpace": {"list": ["16", "32"]}},
    {"name": "kind", "parameterType": "categorical", "feasibleSpace": {"list": ["sgd", "adam"]}},
]
REFERENCES = [
    {"name": "learningRate", "description": "how fast", "reference": "lr"},
    {"name": "layers", "reference": "num-layers"},
    {"name": "optimizer", "reference": "kind"},
    {"name": "trial", "reference": "${trialSpec.Name}"},
    {"name": "team", "reference": "${trialSpec.Labels[team]}"},
]


def container(**fields: Any) -> dict[str, Any]:
    return {
        "name": "training",
        "image": "registry.example.com/train:1",
        "command": ["python", "train.py"],
        "args": ["--lr=${trialParameters.learningRate}", "--layers=${trialParameters.layers}"],
        **fields,
    }


def job(pod: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    template = {"spec": {"containers": [container()], "restartPolicy": "Never", **(pod or {})}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"labels": {"team": "vision"}},
        "spec": {"template": template, **fields},
    }


def experiment(trial: dict[str, Any] | None = None, **spec: Any) -> str:
    content = {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": "mnist", "namespace": "ml"},
        "spec": {
            "objective": {"type": "minimize", "goal": 0.01, "objectiveMetricName": "loss"},
            "algorithm": {"algorithmName": "random"},
            "parallelTrialCount": 2,
            "maxTrialCount": 12,
            "maxFailedTrialCount": 3,
            "parameters": PARAMETERS,
            "trialTemplate": {
                "primaryContainerName": "training",
                "trialParameters": REFERENCES,
                "trialSpec": trial or job(),
            },
            **spec,
        },
    }
    return yaml.safe_dump(content)


def converted(text: str) -> tuple[dict[str, Any], list[str]]:
    result: Converted = convert(text, "FILE")
    return result.manifest["spec"], result.notes


def refused(text: str) -> str:
    with pytest.raises(InvalidInput) as error:
        convert(text, "FILE")
    return str(error.value)


def trialfleet(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trialfleet.cli.main", *arguments],
        input=text,
        capture_output=True,
        text=True,
    )


def test_the_study_is_printed_and_validates(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(experiment())
    done = trialfleet("convert", "katib", path)
    assert done.returncode == 0
    study = tmp_path / "study.yaml"
    study.write_text(done.stdout)
    manifest = read(study)
    assert manifest.notices == []
    content = yaml.safe_load(done.stdout)
    assert content["metadata"] == {"name": "mnist", "namespace": "ml"}
    spec = content["spec"]
    assert spec["objectives"] == [{"name": "loss", "direction": "minimize", "goal": 0.01}]
    assert spec["budget"] == {"trials": 12, "failedTrials": 3}
    assert (spec["parallelism"], spec["pruner"]) == (2, {"name": "NopPruner"})
    assert spec["searchSpace"] == {
        "lr": {"float": {"low": 0.001, "high": 0.1, "log": True}},
        "num-layers": {"int": {"low": 2, "high": 8, "step": 2}},
        "batch": {"categorical": [16, 32]},
        "kind": {"categorical": ["sgd", "adam"]},
    }
    args = ["python", "train.py", "--lr=$(lr)", "--layers=$(num-layers)"]
    assert spec["objective"]["command"]["args"] == args
    assert spec["template"]["spec"] == {
        "containers": [{"name": "worker", "image": "registry.example.com/train:1"}]
    }
    assert "spec.objective.metricStrategies: Katib takes, by default, the min" in done.stderr
    assert "spec.trialTemplate.trialSpec.metadata: of a Job for each trial" in done.stderr


def test_standard_input_and_exit_code_2() -> None:
    assert trialfleet("convert", "katib", "-", text=experiment()).returncode == 0
    done = trialfleet("convert", "katib", "-", text="kind: Study")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "standard input: found 0 Experiments, accepted: one Experiment of kubeflow.org/v1beta1\n"
    )
    assert trialfleet("convert", "katib", "missing.yaml").returncode == 2


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("random", {"random_state": "7"}, {"name": "RandomSampler", "options": {"seed": 7}}),
        (
            "multivariate-tpe",
            {"n_startup_trials": "5", "n_ei_candidates": "30"},
            {
                "name": "TPESampler",
                "options": {
                    "constant_liar": True,
                    "multivariate": True,
                    "n_startup_trials": 5,
                    "n_ei_candidates": 30,
                },
            },
        ),
        ("cmaes", {"sigma": "0.5"}, {"name": "CmaEsSampler"}),
        ("sobol", {}, {"name": "QMCSampler"}),
        ("hyperband", {"eta": "2"}, {"name": "RandomSampler"}),
    ],
)
def test_algorithms(name: str, settings: dict[str, str], expected: dict[str, Any]) -> None:
    given = [{"name": key, "value": value} for key, value in settings.items()]
    algorithm = {"algorithmName": name, "algorithmSettings": given}
    spec, notes = converted(experiment(algorithm=algorithm))
    assert spec["sampler"] == expected
    assert any("spec.algorithm" in note for note in notes) == (
        name in ("cmaes", "sobol", "hyperband")
    )


def test_what_has_no_sampler_is_refused() -> None:
    assert refused(experiment(algorithm={"algorithmName": "pbt"})).startswith(
        "spec.algorithm.algorithmName: found 'pbt': population based training has no equivalent"
    )
    assert refused(experiment(nasConfig={})).startswith("spec.nasConfig: neural architecture")


def test_median_stop_becomes_the_median_pruner() -> None:
    settings = [{"name": "start_step", "value": "5"}]
    stopping = {"algorithmName": "medianstop", "algorithmSettings": settings}
    spec, notes = converted(experiment(earlyStopping=stopping))
    options = {"n_startup_trials": 3, "n_warmup_steps": 4}
    assert spec["pruner"] == {"name": "MedianPruner", "options": options}
    assert any(note.startswith("spec.earlyStopping: became MedianPruner") for note in notes)


def test_no_failure_allowed_ends_at_the_first() -> None:
    spec, _ = converted(experiment(maxFailedTrialCount=0, parallelTrialCount=None))
    assert spec["budget"]["failedTrials"] == 1
    assert spec["parallelism"] == 3


def test_distributions_without_equivalent_are_told() -> None:
    space = {"min": "0", "max": "5", "step": "1", "distribution": "logNormal"}
    parameter = {"name": "lr", "parameterType": "int", "feasibleSpace": space}
    template = {
        "trialParameters": REFERENCES[:1],
        "trialSpec": job({"containers": [container(args=[])]}),
    }
    spec, notes = converted(experiment(parameters=[parameter], trialTemplate=template))
    assert spec["searchSpace"] == {"lr": {"int": {"low": 1, "high": 5, "log": True}}}
    where = "spec.parameters[0].feasibleSpace"
    assert {note.split(": ")[0] for note in notes} >= {
        f"{where}.distribution",
        f"{where}.min",
        f"{where}.step",
    }


def test_variables_and_dollars() -> None:
    env = [
        {"name": "PLAIN", "value": "a"},
        {"name": "TRIAL", "value": "${trialParameters.trial}/${trialParameters.team}"},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]
    words = ["sh", "-c", "x=$(date) $$HOME $(PLAIN) cost$${trialParameters.optimizer} $"]
    spec, _ = converted(experiment(job({"containers": [container(command=words, env=env)]})))
    command = spec["objective"]["command"]
    assert command["args"][2] == "x=$$(date) $$HOME a cost$$$(kind) $$"
    assert command["env"] == {"TRIAL": "mnist-$(TRIALFLEET_TRIAL_NUMBER)/vision"}
    worker = spec["template"]["spec"]["containers"][0]
    assert worker["env"] == [env[0], env[2]]


@pytest.mark.parametrize(
    "source",
    [
        {"env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        {"envFrom": [{"secretRef": {"name": "s"}}]},
    ],
)
def test_a_variable_from_elsewhere_in_an_argument_is_told(source: dict[str, Any]) -> None:
    trial = job({"containers": [container(args=["--key=$(KEY)"], **source)]})
    spec, notes = converted(experiment(trial))
    assert spec["objective"]["command"]["args"][-1] == "--key=$$(KEY)"
    assert spec["template"]["spec"]["containers"][0].items() >= source.items()
    assert any("containers[0].args: found '$(KEY)', whose value comes" in note for note in notes)


def test_the_pod_is_kept() -> None:
    pod = {
        "containers": [container(resources={"limits": {"nvidia.com/gpu": 1}})],
        "nodeSelector": {"gpu": "a100"},
        "volumes": [{"name": "data", "emptyDir": {}}],
        "initContainers": [{"name": "fetch", "image": "fetch:1"}],
    }
    spec, notes = converted(experiment(job(pod, activeDeadlineSeconds=600, backoffLimit=4)))
    kept = spec["template"]["spec"]
    assert kept["nodeSelector"] == {"gpu": "a100"}
    assert kept["volumes"] == pod["volumes"]
    assert kept["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": 1}}
    assert spec["budget"]["trialTimeout"] == "600s"
    assert any(".initContainers: run once a worker" in note for note in notes)
    assert any(".spec.backoffLimit: a program that fails" in note for note in notes)


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        ({"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob"}, "a PyTorchJob"),
        (job({"containers": [container(), container()]}), "containers: found 2"),
        (job({"containers": [container(command=None)]}), "command: missing"),
        (job({"nodeSelector": {"a": "${trialParameters.layers}"}}), "outside of command"),
        (job(completions=2), "spec.completions: found 2"),
        (job({"containers": [container(args=["${trialParameters.x}"])]}), "trialParameters.x"),
    ],
)
def test_templates_that_are_refused(trial: dict[str, Any], message: str) -> None:
    found = refused(experiment(trial))
    assert found.startswith("spec.trialTemplate.trialSpec") and message in found


def test_unknown_fields_are_told() -> None:
    _, notes = converted(experiment(job(podFailurePolicy={}), unheardOf=1))
    assert "spec.unheardOf: no equivalent, left out" in notes
    where = "spec.trialTemplate.trialSpec.spec"
    assert f"{where}.podFailurePolicy: no equivalent, left out" in notes


def regex_of(spec: dict[str, Any]) -> str:
    regex = spec["objective"]["command"]["metrics"]["loss"]["regex"]
    assert isinstance(regex, str)
    return regex


def test_the_default_format() -> None:
    regex = regex_of(converted(experiment())[0])
    line = "val-loss=9 loss = -1.5e-3, xloss=7"
    assert re.findall(regex, line) == ["-1.5e-3"]


def test_a_format_of_ones_own() -> None:
    formats = [r"{name: ([\w|-]+), value: ((-?\d+)(\.\d+)?)}"]
    collector = {
        "collector": {"kind": "StdOut"},
        "source": {"filter": {"metricsFormat": formats}},
    }
    regex = regex_of(converted(experiment(metricsCollectorSpec=collector))[0])
    assert re.findall(regex, "{name: acc, value: 3} {name: loss, value: 0.25}") == ["0.25"]


@pytest.mark.parametrize("form", ["TEXT", "JSON"])
def test_a_file(form: str) -> None:
    place = {"path": "/out/metrics.log", "kind": "File", "format": form}
    collector = {"collector": {"kind": "File"}, "source": {"fileSystemPath": place}}
    spec, _ = converted(experiment(metricsCollectorSpec=collector))
    metric = spec["objective"]["command"]["metrics"]["loss"]
    assert metric["file"] == "/out/metrics.log"
    assert ("regex" in metric) == (form == "TEXT")
    assert mounted(spec) == "/out"


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        (None, "/var/log/katib/tfevent"),
        ({"fileSystemPath": {"path": "/train", "kind": "Directory"}}, "/train"),
    ],
)
def test_event_files(source: dict[str, Any] | None, folder: str) -> None:
    collector = {"collector": {"kind": "TensorFlowEvent"}, **({"source": source} if source else {})}
    spec, notes = converted(experiment(metricsCollectorSpec=collector))
    metric = spec["objective"]["command"]["metrics"]["loss"]
    assert metric["tensorboard"].rstrip("/") == folder
    assert mounted(spec) == folder
    assert any("the image needs the package tensorboard" in note for note in notes)


def mounted(spec: dict[str, Any]) -> str:
    """Return where the empty volume of the files is, for the only container."""
    pod = spec["template"]["spec"]
    assert pod["volumes"] == [{"name": "katib-metrics", "emptyDir": {}}]
    (mount,) = pod["containers"][0]["volumeMounts"]
    return str(mount["mountPath"])


def test_other_collectors_are_told() -> None:
    collector = {"collector": {"kind": "PrometheusMetric"}}
    spec, notes = converted(experiment(metricsCollectorSpec=collector))
    assert spec["objective"]["command"]["metrics"] == {"loss": {}}
    assert any("spec.metricsCollectorSpec: collector PrometheusMetric" in note for note in notes)


def test_a_study_that_would_not_validate_is_refused() -> None:
    found = refused(experiment(algorithm={"algorithmName": "grid"}))
    assert found.startswith("the study would not be valid: spec.sampler")
