"""The examples of `docs/data.md` run."""

import gzip
import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent.parent / "docs" / "data.md"


def test_the_examples_run(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install lightning-dga[text]")
    from pyarrow import parquet

    texts = [f"{i} " + " ".join(f"word{i * j}" for j in range(100)) for i in range(50)]
    folder = tmp_path / "corpus"
    (folder / "news").mkdir(parents=True)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "wiki.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    parquet.write_table(pyarrow.table({"text": texts}), folder / "news" / "a.parquet", row_group_size=7)
    (folder / "target.txt").write_text(" ".join(texts))
    monkeypatch.chdir(tmp_path)
    code, in_setup = re.findall(
        r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    names = {}
    exec(code, names)
    batch = next(iter(names["datamodule"].train_dataloader()))
    assert batch.shape == (8, 129)
    assert len(names["target"]) > 2

    exec(in_setup, names)
    news = names["News"](batch_size=3)
    news.setup("fit")
    assert len(next(iter(news.train_dataloader()))) == 3
    assert news.weights_by_name == {"wiki": 0.75, "news": 0.25}
