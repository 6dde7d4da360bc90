"""Words of conf/ as a run gets them."""

from pathlib import Path

import pytest
import torch
import yaml

from trainlab.config.build import Door

CONF = Path(__file__).resolve().parents[2] / "conf"


def pytest_generate_tests(metafunc):
    """`activation_word`, `init_word`, `norm_word`: every file of the group."""
    for group in ("activation", "init", "norm"):
        if f"{group}_word" in metafunc.fixturenames:
            words = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
            metafunc.parametrize(f"{group}_word", words)


@pytest.fixture
def word():
    """(group, word, changed keys) -> what the door makes of it."""

    def word(group, name, **keys):
        return Door()(yaml.safe_load((CONF / group / f"{name}.yaml").read_text()) | keys)

    return word


@pytest.fixture(autouse=True)
def seeded():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
