"""Domains whose names YAML, Hydra or JSON parse as other types than strings."""

import datetime
import json

import numpy as np
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lightning_dga.core.weights import as_weights
from lightning_dga.core.yaml_names import name_meant, yaml_readings

NAMES = ["no", "2019", "null", "1e3", "0x10", "1_000", "3.10", "2020-01-01", "nan", "wiki"]


def shares(names):
    return {name: index + 1 for index, name in enumerate(names)}


def written(names):
    return "{" + ", ".join(f"{name}: {share}" for name, share in shares(names).items()) + "}"


def expected(names):
    return [share / sum(shares(names).values()) for share in shares(names).values()]


@pytest.mark.parametrize("name", ["on", "Off", "yes", "NO", "true", *NAMES])
def test_a_name_that_yaml_reads_otherwise_is_still_meant(name):
    names = ["wiki", name, "code"] if name != "wiki" else ["wiki", "code"]
    assert as_weights(yaml.safe_load(written(names)), names).tolist() == pytest.approx(expected(names))
    # OmegaConf takes no null for a key
    if name != "null":
        from_config = OmegaConf.create(written(names))
        assert as_weights(from_config, names).tolist() == pytest.approx(expected(names))
    override = OverridesParser.create().parse_override(f"data.weights={written(names)}").value()
    assert as_weights(override, names).tolist() == pytest.approx(expected(names))
    assert as_weights(shares(names), names).tolist() == pytest.approx(expected(names))


def test_all_of_them_at_once():
    assert as_weights(yaml.safe_load(written(NAMES)), NAMES).tolist() == pytest.approx(expected(NAMES))


@pytest.mark.parametrize(
    "values, names",
    [
        ({False: 1, "en": 1}, ["no", "off", "en"]),
        ({False: 1, "en": 1}, ["yes", "en"]),
        ({1: 1, "en": 1}, ["true", "en"]),
        ({True: 1, "en": 1}, ["1", "en"]),
        ({1.0: 1, "en": 1}, ["1", "en"]),
        ({None: 1, "en": 1}, ["no", "en"]),
        ({2019.5: 1, "en": 1}, ["2019", "en"]),
        ({datetime.date(2020, 1, 1): 1, "en": 1}, ["2020-01-02", "en"]),
        ({(1, 2): 1, "en": 1}, ["a", "en"]),
    ],
)
def test_where_it_is_not_plain_the_message_says_to_quote(values, names):
    with pytest.raises(ValueError, match=r"`weights` names the domain .*write the name in quotes"):
        as_weights(values, names)


def test_names_that_yaml_joins_are_missed_with_the_reason():
    with pytest.raises(ValueError, match="may be any of 'no', 'off'"):
        as_weights(yaml.safe_load("{no: 1, off: 2}"), ["no", "off"])
    with pytest.raises(ValueError, match=r"misses 'no'.*write 'no' in quotes"):
        as_weights({"en": 1}, ["en", "no"])
    with pytest.raises(ValueError, match="names domain 'no' twice"):
        as_weights({False: 1, "no": 1}, ["no"])


def test_labels_of_clusters_may_be_numbers():
    names = [str(label) for label in range(200)]
    weights = as_weights({np.int64(label): label + 1 for label in range(200)}, names)
    assert weights.tolist() == pytest.approx(expected(names))


def test_ordinary_names_are_read_as_they_are():
    odd = [
        "wiki",
        "a b",
        "a/b",
        "x.y",
        "a=b",
        "it's",
        "[a]",
        "{b}",
        "*c",
        "!d",
        "%",
        "- e",
        "f: g",
        "ü",
        "7" * 5000,
    ]
    assert [yaml_readings(name) for name in odd] == [[]] * len(odd)
    assert as_weights(shares(odd), odd).tolist() == pytest.approx(expected(odd))
    with pytest.raises(ValueError, match="no domain's name"):
        name_meant(7, odd, "weights")


@pytest.mark.parametrize("value", ["much", None, [1], {"a": 1}])
def test_a_value_that_is_no_number_is_named(value):
    with pytest.raises(ValueError, match=r"`weights` of domain 'wiki' is .*expected a number"):
        as_weights({"wiki": value, "code": 1}, ["wiki", "code"])
    with pytest.raises(ValueError, match=r"`weights` is .*one number for each"):
        as_weights([value, 1], ["wiki", "code"])


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"a": 1, "a": 2, "b": 1}', "names 'a' twice"),
        ("[" * 200_000, "cannot be read"),
        ('{"a": %s, "b": 1}' % ("7" * 5000), "cannot be read"),
        ('{"a": 1%s, "b": 1}' % ("0" * 400), "domain 'a' is not finite"),
        ('{"a": Infinity, "b": 1}', "domain 'a' is not finite"),
        ('{"a": "x", "b": 1}', "domain 'a' is 'x', expected a number"),
    ],
)
def test_files_of_json_that_cannot_be_meant(tmp_path, content, message):
    (tmp_path / "w.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        as_weights(tmp_path / "w.json", ["a", "b"])


def test_other_files(tmp_path):
    (tmp_path / "w.JSON").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": 1, "b": 1}).encode())
    assert as_weights(tmp_path / "w.JSON", ["a", "b"]).tolist() == [0.5, 0.5]
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    np.save(tmp_path / "half.npy", np.ones(999))
    (tmp_path / "half.npy").write_bytes((tmp_path / "half.npy").read_bytes()[:-100])
    for name in ("empty", "text", "half"):
        with pytest.raises(ValueError, match=rf"`weights`: .*{name}\.npy cannot be read"):
            as_weights(tmp_path / f"{name}.npy", ["a", "b"])
