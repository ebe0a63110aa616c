"""What every worker has imported before it is forked: start-up is not what is measured."""

import trialfleet  # isort: skip (before gRPC: it says what gRPC is to do when a process forks)

import grpc
import numpy.ma
import optuna.pruners
import optuna.samplers
import optuna.storages
import psycopg2
import sqlalchemy.dialects.postgresql.psycopg2

import trialfleet.client
import trialfleet.worker.loop

__all__ = ["grpc", "numpy", "optuna", "psycopg2", "sqlalchemy", "trialfleet"]
