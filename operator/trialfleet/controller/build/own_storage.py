"""The StudyStorage of a study that names none."""

from trialfleet import names
from trialfleet.api.study import Study
from trialfleet.api.study_storage import Idle
from trialfleet.controller.build.template import dump_template
from trialfleet.kube.objects import Object, Owner


def build_own_storage(owner: Owner, study: Study) -> Object:
    """Return a storage of the study's own: its proxies go where the study's workers may go.

    One proxy is enough for a study of some hundred workers; it sleeps when the study has ended.
    """
    given = study.spec.storage
    idle = Idle() if given is None or given.idle is None else given.idle
    pod = dump_template(study.spec.template).get("spec", {})
    proxy: Object = {"placement": "Shared"}
    for field in ("nodeSelector", "tolerations"):
        if pod.get(field):
            proxy[field] = pod[field]
    node_affinity = pod.get("affinity", {}).get("nodeAffinity")
    if node_affinity:
        # Between workers, affinity to pods and against them says nothing about proxies.
        proxy["affinity"] = {"nodeAffinity": node_affinity}
    return owner.make(
        names.API_VERSION,
        "StudyStorage",
        owner.name,
        names.COMPONENT_STUDY,
        spec={"proxy": proxy, "idle": idle.model_dump(mode="json", by_alias=True)},
    )
