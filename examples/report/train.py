"""Trains a classifier epoch by epoch, and reports its error on data that it has not seen.

The study's parameters are arguments, so it runs by hand too: python train.py 0.1 0.001
"""

import math
import random
import sys

import trialfleet

EPOCHS = 10


def main(rate: float, decay: float) -> None:
    rng = random.Random(7)
    points = [(rng.gauss(0, 1), rng.gauss(0, 1)) for _ in range(12_000)]
    # Inside of a ring or not: a third of the labels near its edge are wrong.
    data = [
        ((1.0, x, y, x * x, y * y, x * y), float(x * x + y * y + rng.gauss(0, 0.4) < 1.4))
        for x, y in points
    ]
    training, held_back = data[:10_000], data[10_000:]
    weights = [0.0] * 6
    for epoch in range(EPOCHS):
        for features, label in training:
            slope = rate * (probability(weights, features) - label)
            weights = [
                weight * (1 - rate * decay) - slope * feature
                for weight, feature in zip(weights, features, strict=True)
            ]
        error = sum(
            (probability(weights, features) > 0.5) != label for features, label in held_back
        ) / len(held_back)
        print(f"epoch {epoch}: error {error:.4f}", flush=True)
        # If the study's pruner gives this trial up, the program gets SIGTERM.
        trialfleet.report(error=error, step=epoch)


def probability(weights: list[float], features: tuple[float, ...]) -> float:
    score = math.fsum(map(float.__mul__, weights, features))
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
