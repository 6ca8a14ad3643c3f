import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """The machine's cores belong to pytest's workers; more threads each make everything slower, and sums differ."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
