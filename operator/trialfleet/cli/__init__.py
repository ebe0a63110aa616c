"""The command ``trialfleet``; each command is a module of its own."""
