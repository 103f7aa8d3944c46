"""Fit y = a x + b to the dataset by gradient descent; one line of metrics an epoch."""

import argparse
import csv
import json
import os
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, required=True)
parser.add_argument("--epoch-seconds", type=float, required=True)
arguments = parser.parse_args()

(path,) = (Path(os.environ["VH_INPUTS_DIR"]) / "dataset").iterdir()
with path.open() as file:
    rows = [(float(row["x"]), float(row["y"])) for row in csv.DictReader(file)]
print(f"{len(rows)} rows in {path.name}", flush=True)

slope = intercept = 0.0
for epoch in range(1, arguments.epochs + 1):
    errors = [slope * x + intercept - y for x, y in rows]
    slope -= 0.2 * sum(error * x for error, (x, _) in zip(errors, rows, strict=True)) / len(rows)
    intercept -= 0.2 * sum(errors) / len(rows)
    loss = sum(error * error for error in errors) / len(rows)
    print(json.dumps({"epoch": epoch, "loss": round(loss, 6)}), flush=True)
    time.sleep(arguments.epoch_seconds)

model = {"slope": round(slope, 6), "intercept": round(intercept, 6)}
(Path(os.environ["VH_OUTPUTS_DIR"]) / "model.json").write_text(json.dumps(model) + "\n")
