"""`dga-domains` as a user runs it."""

import json
import re
import shutil

import numpy as np
import pytest

from lightning_dga.cli.domains import main
from lightning_dga.cli.domains.command import SUBCOMMANDS
from lightning_dga.cli.domains.histogram import target_histogram
from lightning_dga.data import DataError
from lightning_dga.data.text import clustered_mixture
from tests.helpers.corpora import TOPICS


def run(capsys, *arguments):
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def mistake(capsys, *arguments):
    with pytest.raises(SystemExit) as exit:
        run(capsys, *arguments)
    assert exit.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dga-domains: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Documents that differ: of twelve words of their domain, six each."""
    root = tmp_path_factory.mktemp("corpora")
    generator = np.random.default_rng(0)
    for topic, name in enumerate(["sea", "sky", "soil", "target_weather"]):
        words = TOPICS[1 if name.startswith("target") else topic]
        texts = [" ".join(generator.choice(words, size=6, replace=False)) for _ in range(60)]
        (root / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory, corpora):
    folder = tmp_path_factory.mktemp("domains")
    main(["embed", str(corpora), str(folder)])
    main(["cluster", str(folder), "--clusters", "12"])
    return folder


def test_from_a_corpus_to_weights(tmp_path, capsys, corpora, folder):
    assert np.bincount(np.load(folder / "labels.npy")).min() > 0
    assert len(np.load(folder / "labels.npy")) == 180
    run(capsys, "histogram", folder, "weather", "--output", tmp_path / "histogram.npy")
    histogram = np.load(tmp_path / "histogram.npy")
    assert histogram.shape == (12,) and histogram.sum() == pytest.approx(1)
    run(capsys, "basis", folder, "--output", tmp_path / "basis.npy")
    basis = np.load(tmp_path / "basis.npy")
    assert basis.shape == (12, 3) and basis.sum(axis=0) == pytest.approx(1)
    assert json.loads((tmp_path / "basis.names.json").read_text()) == ["sea", "sky", "soil"]
    # the target's words are those of the sky
    assert basis[:, 1] @ histogram > 0 == basis[:, 0] @ histogram
    files = ["--output", tmp_path / "nearest.npy", "--prior", tmp_path / "prior.json"]
    printed = run(capsys, "nearest", folder, tmp_path / "basis.npy", "weather", *files)
    assert next(iter(json.loads(printed))) == "sky"
    assert (np.load(tmp_path / "nearest.npy") == basis[:, 1]).all()
    assert json.loads((tmp_path / "prior.json").read_text()) == {"sea": 0, "sky": 1, "soil": 0}


def test_few_documents_of_the_target(capsys, folder):
    shares = json.loads(run(capsys, "histogram", folder, "weather", "--target-documents", "2"))
    assert set(shares.values()) <= {0.5, 1}
    assert "from 1 to 20" in mistake(capsys, "histogram", folder, "weather", "--target-documents", "0")


def test_references_of_ones_own(tmp_path, capsys, corpora, folder):
    output = tmp_path / "basis.npy"
    run(
        capsys,
        "basis",
        folder,
        f"rain={corpora / 'target_weather.jsonl'}",
        f"mud={corpora / 'soil.jsonl'}",
        "--output",
        output,
    )
    own = np.load(output)
    run(capsys, "basis", folder, "--except", "sea", "sky", "--output", output)
    assert (np.load(output)[:, 0] == own[:, 1]).all()
    assert json.loads((tmp_path / "basis.names.json").read_text()) == ["soil"]


def test_the_target_may_be_a_distribution_of_the_basis(tmp_path, capsys, corpora, folder):
    few = ["--target-documents", "2", "--target-seed", "1"]
    run(capsys, "histogram", folder, "weather", *few, "--output", tmp_path / "histogram.npy")
    run(capsys, "basis", folder, "--target", "weather", *few, "--output", tmp_path / "basis.npy")
    assert json.loads((tmp_path / "basis.names.json").read_text()) == ["sea", "sky", "soil", "target"]
    assert (np.load(tmp_path / "basis.npy")[:, 3] == np.load(tmp_path / "histogram.npy")).all()
    reference = f"target={corpora / 'sea.jsonl'}"
    given = ["basis", folder, reference, "--target", "weather", "--output", tmp_path / "basis.npy"]
    assert "already named 'target'" in mistake(capsys, *given)


def test_named_domains_still_have_a_histogram(tmp_path, capsys, corpora):
    assert json.loads(run(capsys, "histogram", corpora, "weather")) == {"sea": 0, "sky": 1, "soil": 0}


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_help(capsys, subcommand):
    with pytest.raises(SystemExit) as exit:
        main([subcommand, "--help"])
    assert exit.value.code == 0
    assert re.search(r"usage: dga-domains " + subcommand, capsys.readouterr().out)


def test_mistakes_end_in_one_line(tmp_path, capsys, corpora, folder):
    assert "/nowhere" in mistake(capsys, "embed", "/nowhere", tmp_path)
    assert "no documents" in mistake(capsys, "embed", tmp_path, tmp_path / "out")
    assert "dga-domains embed" in mistake(capsys, "cluster", tmp_path, "--clusters", 3)
    assert "clusters = 12, not 3" in mistake(capsys, "cluster", folder, "--clusters", 3)
    assert "dimensions = 64, not 8" in mistake(capsys, "embed", corpora, folder, "--dimensions", 8)
    assert "Targets: 'weather'" in mistake(capsys, "histogram", folder, "whether")
    assert "such as h.npy" in mistake(capsys, "histogram", folder, "weather", "--output", "h.json")
    assert "no such reference" in mistake(capsys, "basis", folder, "--except", "sand", "--output", "b.npy")
    assert "no basis" in mistake(capsys, "nearest", folder, tmp_path / "none.npy", "weather")


def test_fewer_different_documents_than_clusters_are_told_of(tmp_path, capsys):
    (tmp_path / "twins.jsonl").write_text('{"text": "one and two"}\n{"text": "three or four"}\n' * 5)
    main(["embed", str(tmp_path), str(tmp_path / "domains")])
    main(["cluster", str(tmp_path / "domains"), "--clusters", "5"])
    assert "2 clusters instead of 5" in capsys.readouterr().err


def test_more_clusters_than_documents(tmp_path, capsys, corpora):
    main(["embed", str(corpora), str(tmp_path)])
    assert "180 documents" in mistake(capsys, "cluster", tmp_path, "--clusters", 181)
    # nothing is left that a better number would not fit to
    main(["cluster", str(tmp_path), "--clusters", "5"])


def write(folder, **domains):
    folder.mkdir(exist_ok=True)
    for name, texts in domains.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def test_a_histogram_is_counted_anew_where_files_have_changed(tmp_path):
    root = write(tmp_path, sea=["salt wave"] * 3, sky=["cloud wind"] * 3, target_t=["salt"] * 6)
    assert target_histogram(root, "t") == {"sea": 1, "sky": 0}
    target_histogram(root, "t").clear()
    assert target_histogram(root, "t") == {"sea": 1, "sky": 0}
    write(tmp_path, target_t=["wind"] * 6)
    assert target_histogram(root, "t") == {"sea": 0, "sky": 1}


def test_a_target_of_which_nothing_is_known(tmp_path, capsys, corpora, folder):
    root = write(tmp_path / "corpus", sea=["+ - *", "!"], sky=["?", "%"], target_t=["..."] * 6)
    assert "No document has a word" in mistake(capsys, "histogram", root, "t")
    assert "No document has a word" in mistake(capsys, "embed", root, tmp_path / "domains")
    other = write(tmp_path / "other", target_none=["unheard of"] * 6, target_some=["unheard of", TOPICS[1][0]] * 6)
    for command in (["histogram", folder], ["basis", folder, "--output", tmp_path / "b.npy", "--target"]):
        message = mistake(capsys, *command, "none", "--root", other)
        assert re.search(r"none of its \d+ documents shares a word", message)
    shares = json.loads(run(capsys, "histogram", folder, "some", "--root", other))
    assert sum(shares.values()) == pytest.approx(1) and max(shares.values()) == pytest.approx(1)


def test_a_corpus_that_was_written_again_is_noticed(tmp_path, capsys):
    root = write(tmp_path / "corpus", sea=["salt wave", "deep salt"] * 3, sky=["cloud wind", "high wind"] * 3)
    main(["embed", str(root), str(tmp_path / "domains")])
    main(["embed", str(root), str(tmp_path / "domains")])
    write(root, sky=["cloud rain", "high rain"] * 3)
    assert "'embed' was made with other files of sky." in mistake(capsys, "embed", root, tmp_path / "domains")
    main(["cluster", str(tmp_path / "domains"), "--clusters", "2"])
    main(["embed", str(root), str(tmp_path / "domains"), "--overwrite"])
    # of as many documents, with the same settings: other vectors all the same
    assert "embedded" in mistake(capsys, "cluster", tmp_path / "domains", "--clusters", 2)


@pytest.mark.parametrize("name", ["embed.json", "cluster.json", "labels.npy", "tree.npz", "embedding.npz"])
def test_damaged_files_end_in_one_line(tmp_path, capsys, corpora, folder, name):
    shutil.copytree(folder, tmp_path / "domains")
    file = tmp_path / "domains" / name
    for content in (file.read_bytes()[:-20], b"", b"[]"):
        file.write_bytes(content)
        assert name in mistake(capsys, "histogram", tmp_path / "domains", "weather")


@pytest.mark.parametrize(
    "line",
    ['{"text": 7%s}' % ("7" * 5000), "[" * 99_999, '{"text": null}', '{"content": "a"}', "\0", '{"text": "\\ud800"}'],
)
@pytest.mark.parametrize("command", ["embed", "tokenize", "histogram"])
def test_bad_lines_end_in_one_line(tmp_path, capsys, line, command):
    root = write(tmp_path / "corpus", sea=["salt wave"], sky=["cloud wind"], target_t=["salt"] * 6)
    with (root / "sky.jsonl").open("a") as file:
        file.write(line)
    last = "t" if command == "histogram" else tmp_path / "out"
    assert "sky.jsonl, line 2: " in mistake(capsys, command, root, last)


def test_what_the_system_refuses_ends_in_one_line(tmp_path, capsys, corpora):
    (tmp_path / "file").write_text("")
    assert "file" in mistake(capsys, "embed", corpora, tmp_path / "file" / "out")
    assert "file" in mistake(capsys, "tokenize", corpora, tmp_path / "file" / "out", "--vocab-size", "300")
    assert "file" in mistake(capsys, "histogram", corpora, "weather", "--output", tmp_path / "file" / "h.json")
    assert "at least 257" in mistake(capsys, "tokenize", corpora, tmp_path / "out", "--vocab-size", "256")


@pytest.mark.parametrize("option, value", [("--seed", "-1"), ("--dimensions", "0"), ("--fit-documents", "x")])
def test_numbers_out_of_range_are_usage_errors(tmp_path, capsys, corpora, option, value):
    with pytest.raises(SystemExit) as exit:
        main(["embed", str(corpora), str(tmp_path), option, value])
    assert exit.value.code == 2
    assert option in capsys.readouterr().err


def test_labels_of_documents_that_were_changed_are_refused(tmp_path):
    def corpus(**changes):
        texts = {"sea": ["salt wave " * 9, "deep salt " * 9] * 3, "sky": ["cloud wind " * 9] * 6}
        return write(tmp_path / "corpus", **{**texts, "target_t": ["salt"] * 6, **changes})

    main(["embed", str(corpus()), str(tmp_path / "domains")])
    main(["cluster", str(tmp_path / "domains"), "--clusters", "2"])
    sizes = {"batch_size": 1, "context_length": 2, "vocab_size": 300}
    mixture = clustered_mixture(corpus(), "t", tmp_path / "domains" / "labels.npy", **sizes)
    assert len(mixture.domain_names) == 2
    # as many documents as before, with one of them changed, or in another order
    for changes in ({"sky": ["cloud rain " * 9] * 6}, {"sea": ["deep salt " * 9, "salt wave " * 9] * 3}):
        with pytest.raises(DataError, match=rf"labels\.npy: .*other documents .* in {next(iter(changes))}; make them"):
            clustered_mixture(corpus(**changes), "t", tmp_path / "domains" / "labels.npy", **sizes)
    (tmp_path / "domains" / "cluster.json").unlink()
    clustered_mixture(corpus(**changes), "t", tmp_path / "domains" / "labels.npy", **sizes)
