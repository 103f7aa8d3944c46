"""Compare a model with a test set: the mean absolute error, as a metric and as a report."""

import csv
import json
import os
from pathlib import Path

inputs = Path(os.environ["VH_INPUTS_DIR"])
(model_path,), (test_path,) = (inputs / "model").iterdir(), (inputs / "testset").iterdir()
model = json.loads(model_path.read_text())
with test_path.open() as file:
    rows = [(float(row["x"]), float(row["y"])) for row in csv.DictReader(file)]
errors = [abs(model["slope"] * x + model["intercept"] - y) for x, y in rows]
mean_error = round(sum(errors) / len(errors), 6)
print(json.dumps({"mean_error": mean_error}), flush=True)
(Path(os.environ["VH_OUTPUTS_DIR"]) / "report.txt").write_text(f"mean error {mean_error}\n")
