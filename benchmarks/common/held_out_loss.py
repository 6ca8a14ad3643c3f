"""The loss of a model on documents that it has not seen, written beside the run's metrics."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_dga.data.text import FolderDocuments
from lightning_dga.data.text.tokens.packing import PackedTokens, pack
from lightning_dga.data.text.tokens.tokenizer import END_OF_TEXT_ID

FILE = "general.json"


class HeldOutLoss(L.Callback):
    """Measures the mean loss of a token of each domain's held-out documents when the target is tested.

    Args:
        files: A `.jsonl` file of documents for each domain.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self.files = [Path(file) for file in files]

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        data = trainer.datamodule
        losses = {}
        for file in self.files:
            encodings = data.tokenizer.encode_batch(list(FolderDocuments(file)), add_special_tokens=False)
            ids = [encoding.ids for encoding in encodings]
            windows = PackedTokens(pack(ids, data.tokens_per_sample, END_OF_TEXT_ID))
            batches = torch.utils.data.DataLoader(windows, batch_size=64)
            with torch.no_grad():
                losses[file.stem] = torch.cat([pl_module.alignment_loss(batch) for batch in batches]).mean().item()
        (Path(trainer.default_root_dir) / FILE).write_text(json.dumps(losses))
