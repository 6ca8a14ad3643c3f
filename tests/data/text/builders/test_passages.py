from itertools import pairwise

from lightning_dga.data.text.builders.passages import passages


def test_no_document_is_longer_and_none_could_take_the_next_piece():
    pieces = ["x" * (7 * i % 23 + 1) for i in range(200)]
    documents = list(passages(pieces, "\n\n", 50))
    assert "\n\n".join(documents) == "\n\n".join(pieces)
    assert max(map(len, documents)) <= 50
    for document, following in pairwise(documents):
        assert len(document) + 2 + len(following.split("\n\n")[0]) > 50


def test_long_piece_is_cut_at_line_ends():
    piece = "\n".join(["a" * 10, "b" * 10, "c" * 60, "d"])
    assert list(passages(["start", piece], " ", 25)) == ["start", "a" * 10 + "\n" + "b" * 10, "c" * 60, "d"]


def test_pieces_are_taken_only_when_needed():
    def pieces():
        yield from ["aaaa", "bbbb"]
        raise AssertionError("asked for too much")

    assert next(passages(pieces(), " ", 4)) == "aaaa"


def test_nothing():
    assert list(passages([], " ", 10)) == []
