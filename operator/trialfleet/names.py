"""Every name that more than one module, process or person has to agree on.

Labels, annotations, ports, environment variables, attribute keys and file names are
spelt here and nowhere else.
"""

from typing import Final

DOMAIN: Final = "trialfleet.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{DOMAIN}/{VERSION}"

# -- ports -----------------------------------------------------------------------------

PROXY_PORT: Final = 13000
"""Where a proxy listens: the port that Optuna's own gRPC proxy uses by default."""

METRICS_PORT: Final = 13001

HEALTH_PORT: Final = 13002
"""Where a proxy whose main port is encrypted answers health checks: a kubelet's can't encrypt."""

HEALTH_STARTUP: Final = "startup"
HEALTH_LIVENESS: Final = "liveness"
"""Names by which a kubelet asks a proxy for its health."""

# -- environment of a proxy ------------------------------------------------------------

ENV_STORAGE_URL: Final = "TRIALFLEET_STORAGE_URL"
"""SQLAlchemy URL of the database: a password in it is not for everyone's eyes in argv."""

ENV_IDENTITY: Final = "TRIALFLEET_IDENTITY"
"""Identity of the database that holds the trials: another one is not served."""

# -- environment of whoever calls a proxy ----------------------------------------------

ENV_TOKEN_FILE: Final = "TRIALFLEET_TOKEN_FILE"
"""Path of the file with the token to show to proxies."""

ENV_CA_FILE: Final = "TRIALFLEET_CA_FILE"
"""Path of the certificates of the authorities to trust; calls are encrypted if it is set."""

# -- environment of a worker process ---------------------------------------------------

ENV_PROXY: Final = "TRIALFLEET_PROXY"
"""Comma-separated HOST:PORT of the proxies, the nearest first."""

ENV_STUDY: Final = "TRIALFLEET_STUDY"
ENV_WORKER: Final = "TRIALFLEET_WORKER"
ENV_DEFINITION: Final = "TRIALFLEET_DEFINITION"
"""The study's definition: a worker may be there before the storage knows the study by it."""

ENV_CHECKPOINT_ROOT: Final = "TRIALFLEET_CHECKPOINT_ROOT"
"""Folder under which every trial gets a checkpoint folder."""

ENV_PACKAGES: Final = "TRIALFLEET_PACKAGES"
"""Folder with the packages that an objective asks for, which come before all others."""

ENV_RUN: Final = "TRIALFLEET_RUN"
"""Of a local run, by which it knows what its objectives have started."""

STUDY_FOLDER: Final = "/etc/trialfleet/study"
"""Where a worker's pod has the manifest, and nothing of what its objective may want."""

ENV_RESULTS: Final = "TRIALFLEET_RESULTS"
"""Folder with the results, trials.json and trials.csv; in the pod that collates them."""

# -- environment of a running objective ------------------------------------------------

ENV_CHECKPOINT_DIR: Final = "TRIALFLEET_CHECKPOINT_DIR"
"""The running trial's checkpoint folder; a retried trial gets its origin's."""

ENV_TRIAL_NUMBER: Final = "TRIALFLEET_TRIAL_NUMBER"
ENV_TRIAL_ORIGIN: Final = "TRIALFLEET_TRIAL_ORIGIN"
"""Number of the trial that the running one retries; its own number for a first try."""

ENV_PARAMS: Final = "TRIALFLEET_PARAMS"
"""The running trial's parameters as a JSON object; of an objective that is a program."""

ENV_REPORT: Final = "TRIALFLEET_REPORT"
"""A named pipe, of an objective that is a program: each line is a JSON object with values."""

ENV_OBJECTIVES: Final = "TRIALFLEET_OBJECTIVES"
"""The names of the study's objectives as a JSON list; of an objective that is a program."""

REPORT_STEP: Final = "step"
"""In a line with values the key of the step that they are of."""

LARGEST_STEP: Final = 2**31 - 1
"""Of an intermediate value, as Optuna stores it."""

TRIAL_VARIABLES: Final = (ENV_CHECKPOINT_DIR, ENV_TRIAL_NUMBER, ENV_TRIAL_ORIGIN, ENV_PARAMS)
"""What a program finds in its environment, and can have in its arguments by `$(NAME)`."""

# -- attributes of trials --------------------------------------------------------------

ATTR_FIXED_PARAMS: Final = "fixed_params"
"""Optuna's own: parameters that an enqueued trial must use."""

ATTR_FAILED_TRIAL: Final = "failed_trial"
"""Optuna's own, see ``RetryHeartbeatStaleTrialCallback``: number of the first try."""

ATTR_RETRY_HISTORY: Final = "retry_history"
"""Optuna's own: numbers of all earlier tries, the oldest first."""

ATTR_REASON: Final = "trialfleet:reason"
"""Why a trial failed or was lost: one word in CamelCase."""

ATTR_MESSAGE: Final = "trialfleet:message"
"""What is known of the failure, for people: the first lines of the error."""

ATTR_TRACEBACK: Final = "trialfleet:traceback"

ATTR_WARM_START: Final = "trialfleet:warm_start"
"""Of a trial that was taken over before the study's first one: the name of the study it is from."""

ATTR_WORKER: Final = "trialfleet:worker"
"""The worker that ran the trial when it failed or was lost."""

# -- attributes of studies -------------------------------------------------------------

ATTR_METRIC_NAMES: Final = "study:metric_names"
"""Optuna's own: the names of the objectives."""


def attr_of_stage(stage: str) -> str:
    """Return the attribute that says for what ``prepare`` or ``collate`` was done, local runs."""
    return f"trialfleet:{stage}"


# -- reasons ---------------------------------------------------------------------------

REASON_OBJECTIVE_RAISED: Final = "ObjectiveRaised"
REASON_OBJECTIVE_RETURNED: Final = "ObjectiveReturnedNoValue"
REASON_TRIAL_TIMEOUT: Final = "TrialTimeout"
REASON_CRASHED: Final = "Crashed"
REASON_OOM_KILLED: Final = "OOMKilled"
REASON_KILLED: Final = "KilledBySignal"
REASON_DATA_LOST: Final = "DataLost"
REASON_KEEP_ALIVE: Final = "KeepAliveExpired"

ENDED_TRIALS: Final = "TrialsComplete"
ENDED_FAILED_TRIALS: Final = "FailedTrialsExceeded"
ENDED_TIMEOUT: Final = "Timeout"
ENDED_GOAL: Final = "GoalReached"
ENDED_PATIENCE: Final = "NoImprovement"
ENDED_STOPPED: Final = "Stopped"
"""The sampler has tried everything, or the objective called ``study.stop()``."""

# -- defaults --------------------------------------------------------------------------

SESSION_TIME_TO_LIVE_S: Final = 60.0
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""As gRPC has it where nobody says otherwise, and with it Optuna's own proxy."""

HISTORY_PART_BYTES: Final = 2 * 1024 * 1024
"""Of a part of a study's history; one trial may be larger."""

# -- labels and annotations of objects in a cluster ------------------------------------------

LABEL_COMPONENT: Final = f"{DOMAIN}/component"
"""What an object is for, one of ``COMPONENT_*``; every object of ours has it."""

LABEL_STUDY: Final = f"{DOMAIN}/study"
LABEL_STORAGE: Final = f"{DOMAIN}/storage"
LABEL_APP: Final = "app.kubernetes.io/name"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
APP: Final = "trialfleet"
OPERATOR: Final = "trialfleet-operator"
"""The operator's name: as the one who manages an object, as field manager, as a source of Events,
and as the label ``app.kubernetes.io/name`` of its own pods."""

LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
"""Kueue's own: the queue that a Job waits in."""

COMPONENT_POSTGRES: Final = "postgres"
COMPONENT_PROXY: Final = "proxy"
COMPONENT_BACKUP: Final = "backup"
COMPONENT_RESTORE: Final = "restore"
COMPONENT_WORKER: Final = "worker"
COMPONENT_PREPARE: Final = "prepare"
COMPONENT_COLLATE: Final = "collate"
COMPONENT_STUDY: Final = "study"

ANNOTATION_HASH: Final = f"{DOMAIN}/applied"
"""Hash of the object as the operator wants it: a field that is not wanted any more shows."""

ANNOTATION_GENERATION: Final = f"{DOMAIN}/generation"
"""On a Job: the generation of the study's spec that it was made for."""

ANNOTATION_CONTRACT: Final = f"{DOMAIN}/contract"
"""On a Job: hash of what its pods and the storage must agree on; with another they are replaced."""

ANNOTATION_TOKENS: Final = f"{DOMAIN}/tokens"
"""On a proxy's pod: "uid" if it knows tokens that bear the uid of a Study."""

ANNOTATION_WAKE: Final = f"{DOMAIN}/wake"
"""On a StudyStorage: a time, since when it is awake for as long as it stays awake when idle."""

# -- names of objects in a cluster -----------------------------------------------------------
# None is a name that somebody would choose for an object of their own: a Study "digits" may stand
# beside a ConfigMap "digits-study" and a StatefulSet "digits-pg".

WORKER_CONTAINER: Final = "worker"
PACKAGES_CONTAINER: Final = "trialfleet-packages"
"""Of a worker's pod: the init container that installs what its objective asks for."""

PACKAGES_FOLDER: Final = "/var/lib/trialfleet/packages"
"""Where a worker's pod has these packages."""

PACKAGE_CACHE: Final = "/var/lib/trialfleet/package-cache"
"""Where a study may mount a volume in which they are kept."""

POSTGRES_PORT: Final = 5432


def postgres_name(storage: str) -> str:
    """Return the name of a storage's StatefulSet (or CloudNativePG Cluster), and of its Secret.

    Short: a StatefulSet's pods carry its name and a hash of ten characters in a label of at most
    63, and a storage's name may have 48.
    """
    return f"{storage}-tpg"


def postgres_claim(storage: str) -> str:
    """Return the name of the PersistentVolumeClaim of a storage's own PostgreSQL."""
    return f"data-{postgres_name(storage)}-0"


def backup_name(storage: str) -> str:
    """Return the name of the CronJob that backs a storage up, and of the claim for its dumps."""
    return f"{storage}-tf-backup"


def restore_name(storage: str) -> str:
    """Return the name of the CronJob that never runs and of which Jobs that restore are made."""
    return f"{storage}-tf-restore"


def proxy_name(storage: str) -> str:
    """Return the name of a storage's DaemonSet or Deployment of proxies."""
    return f"{storage}-tf-proxy"


def storage_secret(storage: str, digest: str) -> str:
    """Return the name of the Secret for a storage's PostgreSQL and proxies.

    ``digest`` is of what it holds: a Secret never changes, another takes its place.
    """
    return f"{storage}-storage-{digest}"


def access_secret(study: str, digest: str) -> str:
    """Return the name of the Secret by which the pods of a study reach its storage."""
    return f"{study}-access-{digest}"


ACCESS_TOKEN: Final = "token"
"""In that Secret: the study's token."""

ACCESS_CA: Final = "ca.crt"
"""In that Secret: the certificate of the authority that signed the proxies'."""


def proxy_host(storage: str, namespace: str) -> str:
    """Return a name that is in the certificates of all proxies of a storage."""
    return f"{proxy_service(storage)}.{namespace}.svc"


def postgres_service(storage: str) -> str:
    """Return the name of the Service in front of a storage's PostgreSQL."""
    return _service(postgres_name(storage))


def proxy_service(storage: str) -> str:
    """Return the name of the Service over all proxies of a storage."""
    return _service(proxy_name(storage))


def node_proxy_service(storage: str) -> str:
    """Return the name of the Service that leads to the proxy of one's own node."""
    return _service(f"{storage}-tf-node")


def identity_config_name(storage: str) -> str:
    """Return the name of the ConfigMap with the identity of a storage's database."""
    return f"{storage}-tf-identity"


def worker_job_name(study: str, index: int) -> str:
    """Return the name of a study's Job of workers; a later one has a higher index, from 1."""
    return f"{study}-workers-{index}"


def worker_job_index(name: str) -> int:
    """Return the index in the name of a Job of workers, 0 if it has none."""
    _, _, index = name.rpartition("-")
    return int(index) if index.isascii() and index.isdigit() else 0


def study_config_name(study: str) -> str:
    """Return the name of the ConfigMap that holds a study for its workers."""
    return f"{study}-tf-study"


def prepare_job_name(study: str) -> str:
    """Return the name of the Job that runs before a study."""
    return f"{study}-tf-prepare"


def collate_job_name(study: str) -> str:
    """Return the name of the Job that runs after a study."""
    return f"{study}-tf-collate"


def _service(name: str) -> str:
    # A Service's name must begin with a letter, a study's need not.
    return name if name[0].isalpha() else f"s-{name}"
