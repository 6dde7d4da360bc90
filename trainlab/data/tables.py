"""Small real tables, embedded. Named by conf/data/. N samples, F features."""

from pathlib import Path

import numpy as np
import torch

from trainlab.data.dealt import FOR_TABLES, dealt
from trainlab.data.splits import Split, Splits

FILES = Path(__file__).parent.parent / "data_files"


def wine(split_seed: int = 0) -> Splits:
    """178 wines of three cultivars, 13 chemical measurements: 124 / 18 / 36, stratified.

    Aeberhard and Forina, Wine (UCI, 1992), https://doi.org/10.24432/C5PC7J, CC BY 4.0.
    """
    return _embedded("wine", split_seed)


def breast_cancer(split_seed: int = 0) -> Splits:
    """569 tumours, malignant or benign, 30 measurements of cell nuclei: 398 / 57 / 114, stratified.

    Wolberg, Mangasarian, Street and Street, Breast Cancer Wisconsin (Diagnostic) (UCI, 1993),
    https://doi.org/10.24432/C5DW2B, CC BY 4.0.
    """
    return _embedded("breast_cancer", split_seed)


def _embedded(name: str, split_seed: int) -> Splits:
    with np.load(FILES / f"{name}.npz", allow_pickle=False) as file:
        x, y = torch.from_numpy(file["x"]).float(), torch.from_numpy(file["y"]).long()
        classes, columns = (tuple(map(str, file[key])) for key in ("classes", "columns"))
    told = {"max_value": 1.0, "name": name, "keeps": FOR_TABLES, "columns": columns}
    return dealt(Split(x, y), classes, split_seed, **told)
