"""Callbacks: what a worker calls after each of its trials."""

from typing import Annotated, Any, Final

from pydantic import Field

from trialfleet.api.base import ACCEPTED, OPEN, Model

_IDENTIFIER: Final = r"[A-Za-z_]\w*"


class Callback(Model):
    """A class or a function, as Optuna's callbacks are: it is called with study and trial."""

    name: Annotated[
        str,
        Field(
            pattern=rf"^{_IDENTIFIER}(\.{_IDENTIFIER})*[.:]{_IDENTIFIER}(\.{_IDENTIFIER})*$",
            max_length=512,
            json_schema_extra={
                ACCEPTED: "package.module.Class or package.module:function, such as "
                "'optuna_integration.MLflowCallback'"
            },
        ),
    ]
    """What the worker's image or objective.python.packages has installed, as
    `package.module.name` or `package.module:name`. What an objective's own source defines is in
    the module `trialfleet_objective`."""
    options: Annotated[dict[str, Any], Field(json_schema_extra=OPEN)] = Field(default_factory=dict)
    """Of a class, the arguments of its constructor by name; of a function, further arguments."""
