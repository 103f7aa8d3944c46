"""Measure a model on the images held out, and fail when it is not good enough."""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

INPUTS = Path(os.environ.get("VH_INPUTS_DIR", "inputs"))
OUTPUTS = Path(os.environ.get("VH_OUTPUTS_DIR", "outputs"))


def predict(model: np.lib.npyio.NpzFile, images: np.ndarray) -> np.ndarray:
    first = np.maximum(images @ model["weights_1"] + model["bias_1"], 0)
    second = np.maximum(first @ model["weights_2"] + model["bias_2"], 0)
    return (second @ model["weights_3"] + model["bias_3"]).argmax(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accuracy_min", type=float, default=0.95)
    options = parser.parse_args()

    model = np.load(next((INPUTS / "model").glob("*.npz")))
    data = np.load(next((INPUTS / "test-data").glob("*.npz")))
    labels = data["labels"]
    predicted = predict(model, data["images"])
    # Row: the digit it is. Column: the digit that the model took it for.
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, predicted), 1)
    right = confusion.diagonal()
    accuracy = float(right.sum() / confusion.sum())
    report = {
        "images": len(labels),
        "accuracy": round(accuracy, 6),
        "recall": [round(float(each), 6) for each in right / confusion.sum(axis=1)],
        "precision": [round(float(each), 6) for each in right / np.maximum(confusion.sum(axis=0), 1)],
        "confusion": confusion.tolist(),
    }
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    (OUTPUTS / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(
        json.dumps({"test_accuracy": report["accuracy"], "worst_recall": min(report["recall"])}), flush=True
    )
    if accuracy < options.accuracy_min:
        sys.exit(f"accuracy {accuracy:.4f} is below {options.accuracy_min}")


if __name__ == "__main__":
    main()
