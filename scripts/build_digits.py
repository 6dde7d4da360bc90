"""Rebuild trainlab/data_files/digits.npz from scikit-learn's copy, byte for byte, and print its
sha256. Needs scikit-learn, which nothing else in trainlab does.

    python scripts/build_digits.py [FILE]
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

DIGITS = Path(__file__).parent.parent / "trainlab" / "data_files" / "digits.npz"


def arrays() -> dict[str, np.ndarray]:
    """x (1797, 1, 8, 8) uint8, 0 to 16, and y (1797,) uint8."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return {
        "x": digits.images.astype(np.uint8).reshape(-1, 1, 8, 8),
        "y": digits.target.astype(np.uint8),
    }


def build(path: Path) -> str:
    """Write the file and return its sha256. numpy stamps 1980 on the parts of an archive, so the
    bytes depend on the arrays and the zlib in use alone."""
    np.savez_compressed(path, **arrays())
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else DIGITS
    print(build(target), target)
