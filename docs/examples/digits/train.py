"""Train a neural network on the digits: two hidden layers, written out in NumPy."""

import argparse
import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np

INPUTS = Path(os.environ.get("VH_INPUTS_DIR", "inputs"))
OUTPUTS = Path(os.environ.get("VH_OUTPUTS_DIR", "outputs"))
VALIDATION_SHARE = 0.1


def shifted(images: np.ndarray) -> np.ndarray:
    """Give every image nine times: as it is, and moved by one pixel in each direction."""
    padded = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    moved = [padded[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    return np.concatenate(moved).reshape(-1, 64)


class Network:
    """64 pixels, two hidden layers with rectifiers, ten digits; trained by Adam."""

    def __init__(self, hidden: int, generator: np.random.Generator) -> None:
        sizes = [64, hidden, max(1, hidden // 2), 10]
        self.parameters = []
        for inputs, outputs in pairwise(sizes):
            weights = generator.normal(0, np.sqrt(2 / inputs), (inputs, outputs))
            self.parameters += [weights.astype(np.float32), np.zeros(outputs, np.float32)]
        self.means = [np.zeros_like(each) for each in self.parameters]
        self.squares = [np.zeros_like(each) for each in self.parameters]
        self.step_count = 0

    def activations(self, images: np.ndarray) -> list[np.ndarray]:
        weights_1, bias_1, weights_2, bias_2, weights_3, bias_3 = self.parameters
        first = np.maximum(images @ weights_1 + bias_1, 0)
        second = np.maximum(first @ weights_2 + bias_2, 0)
        return [images, first, second, second @ weights_3 + bias_3]

    def train_on(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> float:
        """Make one step, and give the loss before it."""
        inputs, first, second, scores = self.activations(images)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        rows = np.arange(len(labels))
        loss = -np.log(shares[rows, labels] + 1e-12).mean()
        error = shares
        error[rows, labels] -= 1
        error /= len(labels)
        gradients = []
        for layer, below in ((4, second), (2, first), (0, inputs)):
            gradients = [below.T @ error, error.sum(axis=0), *gradients]
            if layer:
                error = (error @ self.parameters[layer].T) * (below > 0)
        self.apply(gradients, learning_rate)
        return float(loss)

    def apply(self, gradients: list[np.ndarray], learning_rate: float) -> None:
        self.step_count += 1
        correction = np.sqrt(1 - 0.999**self.step_count) / (1 - 0.9**self.step_count)
        for index, gradient in enumerate(gradients):
            self.means[index] += 0.1 * (gradient - self.means[index])
            self.squares[index] += 0.001 * (gradient**2 - self.squares[index])
            step = self.means[index] / (np.sqrt(self.squares[index]) + 1e-8)
            self.parameters[index] -= (learning_rate * correction * step).astype(np.float32)

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        return float((self.activations(images)[-1].argmax(axis=1) == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--learning_rate", type=float, default=0.001)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--shift", action="store_true")
    options = parser.parse_args()

    generator = np.random.default_rng(options.seed)
    data = np.load(next((INPUTS / "training-data").glob("*.npz")))
    order = generator.permutation(len(data["labels"]))
    validation, training = np.split(order, [int(len(order) * VALIDATION_SHARE)])
    images, labels = data["images"][training], data["labels"][training]
    if options.shift:
        images, labels = shifted(images), np.tile(labels, 9)
    print(f"{len(labels)} images to train on, {len(validation)} to validate with", flush=True)

    network = Network(options.hidden, generator)
    for epoch in range(1, options.epochs + 1):
        shuffled = generator.permutation(len(labels))
        batches = [
            shuffled[start : start + options.batch_size]
            for start in range(0, len(shuffled), options.batch_size)
        ]
        # Smaller steps towards the end: the model settles instead of jumping about.
        learning_rate = options.learning_rate * (1 - (epoch - 1) / options.epochs)
        losses = [network.train_on(images[each], labels[each], learning_rate) for each in batches]
        accuracy = network.accuracy(data["images"][validation], data["labels"][validation])
        metrics = {"epoch": epoch, "loss": round(float(np.mean(losses)), 6), "accuracy": round(accuracy, 6)}
        print(json.dumps(metrics), flush=True)

    OUTPUTS.mkdir(parents=True, exist_ok=True)
    names = ("weights_1", "bias_1", "weights_2", "bias_2", "weights_3", "bias_3")
    np.savez(OUTPUTS / "model.npz", **dict(zip(names, network.parameters, strict=True)))


if __name__ == "__main__":
    main()
