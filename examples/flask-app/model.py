"""A stack of dense layers, evaluated with numpy alone."""

import json
import pathlib

import numpy as np


class BadInput(ValueError):
    """The request's pixels cannot be scored; the message says why."""


class Model:
    def __init__(self, layers, classes, scale):
        self.layers = layers
        self.classes = classes
        self.scale = scale

    @classmethod
    def load(cls, directory):
        directory = pathlib.Path(directory)
        description = json.loads((directory / "model.json").read_text())
        # allow_pickle=False: weights are numbers, never code.
        with np.load(directory / "weights.npz", allow_pickle=False) as arrays:
            depth = len(arrays.files) // 2
            layers = [(arrays[f"w{i}"], arrays[f"b{i}"]) for i in range(depth)]
        return cls(layers, np.array(description["classes"]), description["scale"])

    def predict(self, pixels):
        """The most probable class of each row, and its probability."""
        x = self._checked(pixels) / np.float32(self.scale)
        for i, (weights, bias) in enumerate(self.layers):
            x = x @ weights + bias
            if i + 1 < len(self.layers):
                x = np.maximum(x, 0)
        x = np.exp(x - x.max(axis=1, keepdims=True))
        x /= x.sum(axis=1, keepdims=True)
        best = x.argmax(axis=1)
        return self.classes[best], x[np.arange(len(x)), best]

    def _checked(self, pixels):
        width = self.layers[0][0].shape[0]
        try:
            rows = np.asarray(pixels, dtype=np.float32)
        except (TypeError, ValueError):
            raise BadInput(f"'pixels' must be rows of {width} numbers") from None
        if rows.ndim == 1:
            rows = rows[np.newaxis, :]
        if rows.ndim != 2 or rows.shape[1] != width or len(rows) == 0:
            raise BadInput(f"'pixels' must be rows of {width} numbers")
        if not np.isfinite(rows).all():
            raise BadInput("'pixels' must be finite numbers")
        return rows
