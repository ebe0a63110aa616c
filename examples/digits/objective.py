"""Handwritten digits by a neural network, trained epoch by epoch."""

import optuna
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

EPOCHS = 30

# Loaded once in each worker, not once in each trial.
images, labels = load_digits(return_X_y=True)
train_images, test_images, train_labels, test_labels = train_test_split(
    images / 16.0, labels, test_size=0.25, random_state=0, stratify=labels
)


def objective(trial: optuna.Trial) -> float:
    """Return the share of digits that the network tells right after its last epoch."""
    network = MLPClassifier(
        hidden_layer_sizes=(trial.suggest_int("units", 16, 256, log=True),),
        learning_rate_init=trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        alpha=trial.suggest_float("alpha", 1e-6, 1e-1, log=True),
        batch_size=trial.suggest_categorical("batch_size", [16, 32, 64, 128]),
        random_state=trial.number,
    )
    accuracy = 0.0
    for epoch in range(EPOCHS):
        network.partial_fit(train_images, train_labels, classes=range(10))
        accuracy = network.score(test_images, test_labels)
        trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return accuracy
