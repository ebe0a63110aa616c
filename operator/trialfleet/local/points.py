"""``spec.trialsFrom`` on one machine: a file beside the manifest, or a ConfigMap in it."""

from typing import TYPE_CHECKING, Any

from trialfleet.api.points import parse_points
from trialfleet.model.errors import InvalidInput

if TYPE_CHECKING:
    from trialfleet.api.manifest import Manifest
    from trialfleet.api.study import StudySpec


def read_points(spec: "StudySpec", manifest: "Manifest") -> list[dict[str, Any]]:
    """Return the points of ``spec.trialsFrom``, none if there is no such field.

    Raises:
        InvalidInput: They are not there, or are no points of the search space.
    """
    if spec.trials_from is None:
        return []
    reference = spec.trials_from.config_map
    if reference is not None:
        where = f"spec.trialsFrom.configMap: ConfigMap {reference.name!r}, key {reference.key!r}"
        text = manifest.config_maps.get(reference.name, {}).get(reference.key)
        if text is None:
            raise InvalidInput(
                f"{where}: not found in {manifest.path}, accepted on one machine: a ConfigMap in "
                "the same file, or trialsFrom.file"
            )
        return parse_points(text, where, spec.search_space)
    assert spec.trials_from.file is not None
    path = manifest.path.parent / spec.trials_from.file
    where = f"spec.trialsFrom.file: {path}"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{where}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{where}: found bytes that are no UTF-8: {error.reason}") from None
    return parse_points(text, where, spec.search_space)
