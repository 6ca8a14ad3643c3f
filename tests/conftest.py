import json

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """The machine's cores belong to pytest's workers; more threads each make everything slower, and sums differ."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """A small folder as `experiment=corpora` reads it."""
    root = tmp_path_factory.mktemp("corpora")
    words = {
        "sea": "wave ship sail harbour tide",
        "sky": "cloud wind star rain moon",
        "soil": "root seed worm clay leaf",
    }
    for domain, vocabulary in words.items():
        lines = [" ".join(vocabulary.split()[(i + j) % 5] for j in range(40)) for i in range(60)]
        (root / f"{domain}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    target = [" ".join(words["sky"].split()[(2 * i + j) % 5] for j in range(40)) for i in range(60)]
    (root / "target_weather.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in target))
    # a cluster for each document, as `dga-domains cluster` would leave it
    np.save(root / "labels.npy", np.arange(180) % 5)
    return root
