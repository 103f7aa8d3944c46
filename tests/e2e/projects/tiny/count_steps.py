"""Prints a line and a metric point for each step, copies its input, writes an output, exits as told."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--delay-milliseconds", type=int, default=0)
parser.add_argument("--exit-code", type=int, default=0)
parser.add_argument("--label", default="")
arguments = parser.parse_args()

for step in range(1, arguments.steps + 1):
    print(f"step {step} of {arguments.steps}", flush=True)
    print(json.dumps({"step": step, "loss": 1 / step}), flush=True)
    time.sleep(arguments.delay_milliseconds / 1000)

words = sorted(Path(os.environ["VH_INPUTS_DIR"]).glob("words/*"))
outputs = Path(os.environ["VH_OUTPUTS_DIR"])
(outputs / "deep").mkdir()
(outputs / "deep" / "model.txt").write_text(
    f"model of {arguments.steps} steps\n" + "".join(w.read_text() for w in words)
)
print(f"exiting with {arguments.exit_code}", file=sys.stderr, flush=True)
sys.exit(arguments.exit_code)
