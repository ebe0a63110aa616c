"""``trialfleet storage rotate``: a new key for the tokens of a cluster's storage."""

from typing import Annotated

import typer

from trialfleet.cli.sources import ContextOption, NamespaceOption, open_cluster


def rotate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The StudyStorage.")],
    namespace: NamespaceOption = None,
    context: ContextOption = None,
) -> None:
    """Replace the key of a storage's tokens, in three steps: each call takes the next one.

    First proxies take the tokens of a new key too, then studies get tokens that are made with it
    and their workers are replaced, then the tokens of the old key open nothing any more.
    """
    from trialfleet.cluster import steer

    with open_cluster(namespace, context) as cluster:
        keys = steer.rotate(cluster, name)
    if len(keys) == 1:
        print(f"{name}: tokens of key {keys[0]} only; every token made before opens nothing")
    elif keys[0] < keys[1]:
        print(
            f"{name}: step 1 of 3, tokens of key {keys[1]} are taken too; "
            "go on when all proxies have been replaced"
        )
    else:
        print(
            f"{name}: step 2 of 3, tokens are made with key {keys[0]}; "
            "go on when all workers have been replaced"
        )
