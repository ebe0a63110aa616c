"""Wines told apart by a random forest or a neural network: the search space depends on it."""

import warnings

import optuna
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

features, classes = load_wine(return_X_y=True)

# A network that is stopped early is a valid trial, only not a good one.
warnings.simplefilter("ignore", ConvergenceWarning)


def objective(trial: optuna.Trial) -> float:
    """Return the mean accuracy of a five-fold cross-validation."""
    kind = trial.suggest_categorical("classifier", ["forest", "network"])
    classifier = make_forest(trial) if kind == "forest" else make_network(trial)
    model = make_pipeline(StandardScaler(), classifier)
    return float(cross_val_score(model, features, classes, cv=5).mean())


def make_forest(trial: optuna.Trial) -> ClassifierMixin:
    return RandomForestClassifier(
        n_estimators=trial.suggest_int("trees", 4, 64, log=True),
        max_depth=trial.suggest_int("max_depth", 2, 16),
        random_state=trial.number,
    )


def make_network(trial: optuna.Trial) -> ClassifierMixin:
    """Suggest the number of layers, and then a size for each of them."""
    layers = trial.suggest_int("layers", 1, 3)
    return MLPClassifier(
        hidden_layer_sizes=[trial.suggest_int(f"units_{i}", 4, 64) for i in range(layers)],
        learning_rate_init=trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        max_iter=60,
        random_state=trial.number,
    )
