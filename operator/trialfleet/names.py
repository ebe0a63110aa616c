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

# -- environment of a proxy ------------------------------------------------------------

ENV_STORAGE_URL: Final = "TRIALFLEET_STORAGE_URL"
"""SQLAlchemy URL of the database: a password in it is not for everyone's eyes in argv."""

# -- environment of a worker process ---------------------------------------------------

ENV_PROXY: Final = "TRIALFLEET_PROXY"
"""Comma-separated HOST:PORT of the proxies, the nearest first."""

ENV_STUDY: Final = "TRIALFLEET_STUDY"
ENV_WORKER: Final = "TRIALFLEET_WORKER"
ENV_CHECKPOINT_ROOT: Final = "TRIALFLEET_CHECKPOINT_ROOT"
"""Folder under which every trial gets a checkpoint folder."""

# -- environment of a running objective ------------------------------------------------

ENV_CHECKPOINT_DIR: Final = "TRIALFLEET_CHECKPOINT_DIR"
"""The running trial's checkpoint folder; a retried trial gets its origin's."""

ENV_TRIAL_NUMBER: Final = "TRIALFLEET_TRIAL_NUMBER"
ENV_TRIAL_ORIGIN: Final = "TRIALFLEET_TRIAL_ORIGIN"
"""Number of the trial that the running one retries; its own number for a first try."""

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

ATTR_WORKER: Final = "trialfleet:worker"
"""The worker that ran the trial when it failed or was lost."""

# -- attributes of studies -------------------------------------------------------------

ATTR_METRIC_NAMES: Final = "study:metric_names"
"""Optuna's own: the names of the objectives."""

# -- reasons ---------------------------------------------------------------------------

REASON_OBJECTIVE_RAISED: Final = "ObjectiveRaised"
REASON_OBJECTIVE_RETURNED: Final = "ObjectiveReturnedNoValue"
REASON_TRIAL_TIMEOUT: Final = "TrialTimeout"
REASON_CRASHED: Final = "Crashed"
REASON_OOM_KILLED: Final = "OOMKilled"
REASON_KILLED: Final = "KilledBySignal"
REASON_KEEP_ALIVE: Final = "KeepAliveExpired"

ENDED_TRIALS: Final = "TrialsComplete"
ENDED_FAILED_TRIALS: Final = "FailedTrialsExceeded"
ENDED_TIMEOUT: Final = "Timeout"
ENDED_GOAL: Final = "GoalReached"

# -- defaults --------------------------------------------------------------------------

SESSION_TIME_TO_LIVE_S: Final = 60.0
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
