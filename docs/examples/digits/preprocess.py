"""Split the UCI handwritten digits into training and test data."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

OUTPUTS = Path(os.environ.get("VH_OUTPUTS_DIR", "outputs"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test_share", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    # Pixels go from 0 to 16. Every digit has the same share in both parts.
    images = (images / 16.0).astype(np.float32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=options.test_share, random_state=options.seed, stratify=labels
    )
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    np.savez(OUTPUTS / "train.npz", images=train_images, labels=train_labels)
    np.savez(OUTPUTS / "test.npz", images=test_images, labels=test_labels)
    print(json.dumps({"train_images": len(train_labels), "test_images": len(test_labels)}), flush=True)


if __name__ == "__main__":
    main()
