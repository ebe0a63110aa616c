"""Reasons and messages of conditions and Events: what programs match and people read."""

from typing import Final

# -- conditions ------------------------------------------------------------------------------

STORAGE_READY: Final = "StorageReady"
PREPARED: Final = "Prepared"
RUNNING: Final = "Running"
STALLED: Final = "Stalled"
SUSPENDED: Final = "Suspended"
COLLATED: Final = "Collated"
COMPLETE: Final = "Complete"
FAILED: Final = "Failed"

ASLEEP: Final = "Asleep"
POSTGRES_READY: Final = "PostgresReady"
PROXIES_READY: Final = "ProxiesReady"
READY: Final = "Ready"
BACKED_UP: Final = "BackedUp"

# -- a study that can't go on ------------------------------------------------------------------

INVALID_SPEC: Final = "InvalidSpec"
NAME_TAKEN: Final = "NameTaken"
STORAGE_MISSING: Final = "StorageMissing"
STORAGE_UNAVAILABLE: Final = "StorageUnavailable"
DEFINITION_DIFFERS: Final = "DefinitionDiffers"
DATA_LOST: Final = "DataLost"
STORAGE_REFUSED: Final = "StorageRefused"
UNSCHEDULABLE: Final = "Unschedulable"
IMAGE_PULL_FAILED: Final = "ImagePullFailed"
CONFIG_MISSING: Final = "ConfigMissing"
VOLUME_FAILED: Final = "VolumeFailed"
QUOTA_EXCEEDED: Final = "QuotaExceeded"
PODS_FORBIDDEN: Final = "PodsForbidden"
OBJECT_REFUSED: Final = "ObjectRefused"
START_FAILED: Final = "StartFailed"
CRASH_LOOP: Final = "CrashLoop"
OBJECTIVE_IMPORT_FAILED: Final = "ObjectiveImportFailed"
WORKERS_FAILED: Final = "WorkersFailed"
NO_TRIAL_COMPLETED: Final = "NoTrialCompleted"
PREPARE_FAILED: Final = "PrepareFailed"
COLLATE_FAILED: Final = "CollateFailed"
BACKUP_FAILED: Final = "BackupFailed"
CRD_MISSING: Final = "CustomResourceMissing"

# -- how far a study or storage is -------------------------------------------------------------

AVAILABLE: Final = "Available"
STARTING: Final = "Starting"
PREPARING: Final = "Preparing"
SUCCEEDED: Final = "Succeeded"
COLLATING: Final = "Collating"
WAITING_FOR_STORAGE: Final = "WaitingForStorage"
WORKERS_STARTING: Final = "WorkersStarting"
WORKERS_RUNNING: Final = "WorkersRunning"
NEEDED: Final = "Needed"
NO_STUDY_RUNS: Final = "NoStudyRuns"
NO_WORKERS: Final = "NoWorkersWanted"
DRAINING: Final = "Draining"
PROGRESSING: Final = "Progressing"
ENDED: Final = "Ended"
BY_SPEC: Final = "BySpec"
NOT_SUSPENDED: Final = "NotSuspended"
NOT_YET: Final = "NotYet"
NOT_ENDED: Final = "NotEnded"
NOT_FAILED: Final = "NotFailed"

# -- lost workers ------------------------------------------------------------------------------

EVICTED: Final = "Evicted"
NODE_LOST: Final = "NodeLost"
DELETED: Final = "PodDeleted"

# -- Events ------------------------------------------------------------------------------------

EVENT_STARTED: Final = "Started"
EVENT_ASLEEP: Final = "Asleep"
EVENT_AWAKE: Final = "Awake"
EVENT_VOLUME_KEPT: Final = "VolumeKept"
EVENT_LOSS_ACCEPTED: Final = "DataLossAccepted"
EVENT_TAKEN_OVER: Final = "TrialsTakenOver"
EVENT_BEST_IMPROVED: Final = "BestImproved"
EVENT_TRIAL_LOST: Final = "TrialLost"
EVENT_TRIAL_FAILED: Final = "TrialFailed"
EVENT_WORKER_SILENT: Final = "WorkerSilent"
EVENT_SUSPENDED: Final = "Suspended"
EVENT_RESUMED: Final = "Resumed"
EVENT_COMPLETE: Final = "Complete"
EVENT_READY: Final = "Ready"
EVENT_RECOVERED: Final = "Recovered"
EVENT_EXPIRED: Final = "Expired"
