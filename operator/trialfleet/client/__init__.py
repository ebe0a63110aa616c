"""An Optuna storage over ``trialfleet.v1``, for workers and tools."""

from trialfleet.client.answers import Counts, GivenUp, Goal, StudyDefinition, Summary
from trialfleet.client.fleet_storage import FleetStorage

__all__ = ["Counts", "FleetStorage", "GivenUp", "Goal", "StudyDefinition", "Summary"]
