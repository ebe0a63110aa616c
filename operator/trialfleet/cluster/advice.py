"""What to do about each reason that a condition, an Event or a failed trial gives."""

from typing import Final

from trialfleet import names

ADVICE: Final = {
    # -- a study that can't go on
    "InvalidSpec": "correct the field that the message names, and submit the study again",
    "NameTaken": "rename or delete the object that the message names, or give the study another "
    "name",
    "StorageMissing": "create the StudyStorage that spec.storage names, or leave the field out for "
    "a storage of the study's own",
    "StorageUnavailable": "look at the storage's own pods and conditions, below: PostgreSQL has to "
    "run, and its volume to be bound; of an external one, check the URL in its Secret",
    names.REASON_DATA_LOST: "bring the right database back, or accept that the trials are gone "
    "(docs/operator.md, 'A database that is another')",
    "NoTrialCompleted": "read the errors: trialfleet trials STUDY --state fail; correct the "
    "objective, and raise spec.budget.trials",
    "DefinitionDiffers": "give the study another name, set spec.adopt to count the trials that are "
    "there as its own, or delete them (docs/operator.md, 'A study made anew')",
    "StorageRefused": "give the study another name: the storage has one of this name with other "
    "objectives",
    "Unschedulable": "ask for less (spec.template: resources, nodeSelector, affinity), add a node "
    "that has it, or scale down: trialfleet scale STUDY N",
    "ImagePullFailed": "check the image's name and tag, and the right to pull it "
    "(imagePullSecrets in spec.template)",
    "ConfigMissing": "create the ConfigMap or Secret that the message names, with that key",
    "VolumeFailed": "check the volume that the message names: its claim, its StorageClass, and "
    "whether another node holds it",
    "QuotaExceeded": "raise the namespace's ResourceQuota, ask for less in spec.template, or scale "
    "down: trialfleet scale STUDY N",
    "PodsForbidden": "change what the namespace's policy refuses in spec.template; the message has "
    "its words",
    "ObjectRefused": "correct the field of spec.template that the API server's words name, or give "
    "the operator the right that it lacks",
    "StartFailed": "check the image's command and the init containers; the kubelet's words are in "
    "the message",
    "PackagesFailed": "read pip's words in the message; ask for other packages "
    "(spec.objective.python.packages) in a study of another name, or let pods reach the index "
    "(packages.indexUrl of the chart); then: trialfleet suspend STUDY, trialfleet resume STUDY",
    "CrashLoop": "read the container's last lines, below; a worker that ends before its first "
    "trial has the wrong image, too little memory, or no way to its proxy",
    "ObjectiveImportFailed": "correct the objective's source, or add what it imports "
    "(spec.objective.python.packages, or an image that has it); then submit the study again",
    "WorkersFailed": "read the workers' last lines, below; then let it try again: "
    "trialfleet suspend STUDY, trialfleet resume STUDY",
    "PrepareFailed": "read the pod's last lines, below; correct spec.prepare, and let it try "
    "again: trialfleet suspend STUDY, trialfleet resume STUDY",
    "CollateFailed": "read the pod's last lines, below; the trials are safe: trialfleet trials "
    "STUDY",
    "BackupFailed": "read the message: the volume of the dumps may be full, or the database may "
    "not answer; then make a dump at once (docs/disasters.md)",
    "CustomResourceMissing": "install CloudNativePG, or let the storage manage PostgreSQL itself "
    "(spec.postgres.managed)",
    # -- how far a study or storage is
    "Available": "nothing: a proxy serves",
    "Starting": "wait: PostgreSQL and the proxies start within a minute; the pods, below, say what "
    "they wait for",
    "Preparing": "wait: spec.prepare runs; its pod is below",
    "Succeeded": "nothing: it has run",
    "Collating": "wait: spec.collate runs; its pod is below",
    "WaitingForStorage": "wait: workers start as soon as a proxy serves",
    "WorkersStarting": "wait: the pods, below, say what they wait for",
    "WorkersRunning": "nothing: workers hold sessions",
    "WorkersFollow": "wait: workers are replaced by ones of the new template, some at a time",
    "WorkersReplaced": "nothing: all workers are of the new template",
    "NoWorkersWanted": "give it workers: trialfleet scale STUDY N",
    "Draining": "wait: running trials are finished or handed back",
    "Progressing": "nothing: nothing is in the way",
    "Ended": "nothing: the study has ended",
    "BySpec": "let it go on: trialfleet resume STUDY",
    "NotSuspended": "nothing",
    "NotEnded": "nothing",
    "NotFailed": "nothing",
    # -- lost workers and failed trials
    "Evicted": "nothing: the trial is run again; ask for the memory and disk that workers use, so "
    "that a node under pressure evicts others first",
    "NodeLost": "nothing: the trial is run again; look at the node: kubectl get nodes",
    "PodDeleted": "nothing: the trial is run again",
    names.REASON_KEEP_ALIVE: "look whether workers reach their proxy, and whether an objective "
    "holds Python's lock for a minute; the trial is run again",
    names.REASON_OBJECTIVE_RAISED: "read the error: trialfleet trials STUDY --state fail; the "
    "objective raised it",
    names.REASON_OBJECTIVE_RETURNED: "return a number from the objective, or one for each of "
    "spec.objectives",
    names.REASON_TRIAL_TIMEOUT: "raise spec.budget.trialTimeout, or let the objective report and "
    "be pruned",
    names.REASON_CRASHED: "read the worker's last lines: trialfleet logs STUDY; the objective "
    "ended its process",
    names.REASON_OOM_KILLED: "raise the memory limit in spec.template, or use less of it",
    names.REASON_KILLED: "find out who killed the process; a limit of memory shows as OOMKilled",
    # -- how a study ends
    names.ENDED_TRIALS: "go on with it: raise spec.budget.trials, and submit it again",
    names.ENDED_FAILED_TRIALS: "read the errors: trialfleet trials STUDY --state fail; then raise "
    "spec.budget.failedTrials, and submit it again",
    names.ENDED_TIMEOUT: "go on with it: raise spec.budget.timeout, and submit it again",
    names.ENDED_GOAL: "nothing: the goal is reached",
    names.ENDED_PATIENCE: "go on with it: raise spec.budget.patience.trials, and submit it again",
    names.ENDED_STOPPED: "nothing: somebody, the sampler or the objective has stopped it",
    # -- Events
    "Started": "nothing",
    "TrialsTakenOver": "nothing: it goes on with the trials that were there",
    "BestImproved": "nothing",
    "TrialLost": "nothing: the trial is run again, up to spec.retries times",
    "TrialFailed": "read the error: trialfleet trials STUDY --state fail",
    "Suspended": "let it go on: trialfleet resume STUDY",
    "Resumed": "nothing",
    "Complete": "nothing: see the result: trialfleet best STUDY",
    "DataLossAccepted": "nothing: the storage begins anew",
    "WorkerSilent": "look whether the worker's pod reaches its proxy, and whether its objective "
    "holds Python's lock",
    "Ready": "nothing",
    "Asleep": "wake the storage to read its trials: trialfleet storage wake STORAGE",
    "NoStudyRuns": "wake the storage to read its trials: trialfleet storage wake STORAGE",
    "Awake": "nothing: the storage is there",
    "Needed": "nothing: the storage is there",
    "VolumeKept": "delete the volumes that the message names, if what they hold is not needed",
    "NotYet": "wait for the next dump, or make one at once (docs/disasters.md)",
    "OpenWithoutToken": "nothing, if who reaches the port may read and change all trials of the "
    "storage (docs/security.md); else remove spec.security.plaintextPort",
    "Recovered": "nothing: what was in the way is gone",
    "Expired": "nothing: spec.ttlSecondsAfterFinished is over",
}


def advise(reason: str, study: str) -> str:
    """Return what to do about a reason of a study; empty for a reason that is none of ours."""
    return ADVICE.get(reason, "").replace("STUDY", study)
