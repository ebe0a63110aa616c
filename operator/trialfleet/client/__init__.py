"""An Optuna storage over ``trialfleet.v1``, for workers and tools."""

from trialfleet.client.answers import GivenUp, StudyDefinition, Summary
from trialfleet.client.fleet_storage import FleetStorage
from trialfleet.model.budget import Goal
from trialfleet.model.study import Counts

__all__ = ["Counts", "FleetStorage", "GivenUp", "Goal", "StudyDefinition", "Summary"]
