"""``python -m trialfleet``: the command, where its script is not on the path."""

from trialfleet.cli.main import main

main()
