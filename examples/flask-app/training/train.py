"""Trains the example's digit classifiers on the set that ships inside scikit-learn.

Run it in an environment of its own (see requirements.txt beside it):

    python train.py ../models/digits

It writes two versions of the same model, so that a release of a new model can be shown:
1.0.0 is a linear classifier, 1.1.0 has one hidden layer. Both are stacks of dense layers,
stored as float32 arrays w0, b0, w1, b1, … that the app evaluates with numpy alone.
The held-out quarter of the data gives the accuracy in model.json; its first hundred digits
become the app's own test set.
"""

import json
import pathlib
import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

SCALE = 16.0  # the set's pixels are 0..16


def layers_of(model):
    """The dense layers of a fitted classifier, first to last."""
    if isinstance(model, LogisticRegression):
        return [(model.coef_.T, model.intercept_)]
    return list(zip(model.coefs_, model.intercepts_))


def save(directory, model, accuracy):
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for i, (weights, bias) in enumerate(layers_of(model)):
        arrays[f"w{i}"] = weights.astype(np.float32)
        arrays[f"b{i}"] = bias.astype(np.float32)
    np.savez(directory / "weights.npz", **arrays)
    description = {
        "kind": type(model).__name__,
        "input": "8x8 pixels, 0..16, row by row",
        "scale": SCALE,
        "classes": [int(c) for c in model.classes_],
        "test_accuracy": round(accuracy, 4),
    }
    (directory / "model.json").write_text(json.dumps(description, indent=2) + "\n")


def main(target):
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.data, digits.target, test_size=0.25, random_state=7, stratify=digits.target
    )
    models = {
        "1.0.0": LogisticRegression(max_iter=2000, C=1.0),
        "1.1.0": MLPClassifier((48,), max_iter=600, random_state=7, early_stopping=False),
    }
    for version, model in models.items():
        model.fit(train_x / SCALE, train_y)
        accuracy = model.score(test_x / SCALE, test_y)
        save(target / version, model, accuracy)
        print(f"{version}: test accuracy {accuracy:.4f}")
    sample = {"pixels": test_x[:100].astype(int).tolist(), "labels": test_y[:100].tolist()}
    data = pathlib.Path(__file__).parent.parent / "tests" / "data" / "digits.json"
    data.write_text(json.dumps(sample, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
