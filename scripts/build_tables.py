"""Rebuild trainlab/data_files/{wine,breast_cancer}.npz from scikit-learn's copies, byte for byte,
and print their sha256. Needs scikit-learn, which nothing else in trainlab does.

    python scripts/build_tables.py [FOLDER]
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent.parent / "trainlab" / "data_files"
WINE_CLASSES = ("cultivar_1", "cultivar_2", "cultivar_3")  # UCI numbers them 1, 2, 3


def arrays(name: str) -> dict[str, np.ndarray]:
    """x (N, F) float64, y (N,) uint8, classes (K,) and columns (F,) of text."""
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    return {
        "x": data.data,
        "y": data.target.astype(np.uint8),
        "classes": np.array(WINE_CLASSES if name == "wine" else data.target_names, dtype=str),
        "columns": np.array([text.replace(" ", "_") for text in data.feature_names], dtype=str),
    }


def build(name: str, folder: Path) -> str:
    """Write the file and return its sha256. numpy stamps 1980 on the parts of an archive, so the
    bytes depend on the arrays and the zlib in use alone."""
    path = folder / f"{name}.npz"
    np.savez_compressed(path, **arrays(name))
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for table in ("wine", "breast_cancer"):
        print(build(table, target), target / f"{table}.npz")
