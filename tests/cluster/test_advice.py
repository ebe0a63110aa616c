"""Every reason has an advice."""

from trialfleet import names
from trialfleet.cluster.advice import ADVICE, advise
from trialfleet.kube import reasons

KINDS = {
    *(reasons.STORAGE_READY, reasons.PREPARED, reasons.RUNNING, reasons.STALLED),
    *(reasons.COLLATED, reasons.FAILED, reasons.POSTGRES_READY, reasons.PROXIES_READY),
    *(reasons.BACKED_UP, reasons.PLAINTEXT_PORT),
}
"""Of conditions, which are no reasons."""


def constants(module: object, prefix: str = "") -> set[str]:
    """Return the texts that a module's constants have."""
    return {
        text
        for name, text in vars(module).items()
        if name.isupper() and name.startswith(prefix) and isinstance(text, str)
    }


def test_every_reason_has_an_advice() -> None:
    every = constants(reasons) - KINDS
    every |= constants(names, "REASON_") | constants(names, "ENDED_")
    assert every - set(ADVICE) == set()
    assert set(ADVICE) - every == set()


def test_an_advice_names_the_study() -> None:
    assert advise("NoWorkersWanted", "digits") == "give it workers: trialfleet scale digits N"
    assert advise("SomethingElse", "digits") == ""
