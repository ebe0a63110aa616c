"""The StudyStorage of a study that names none."""

from trialfleet import names
from trialfleet.api.study import Study
from trialfleet.controller.build.objects import Object, Owner
from trialfleet.controller.build.template import dump_template


def build_own_storage(owner: Owner, study: Study) -> Object:
    """Return a storage of the study's own: its proxies go where the study's workers may go."""
    pod = dump_template(study.spec.template).get("spec", {})
    proxy: Object = {}
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
        spec={"proxy": proxy} if proxy else {},
    )
