from __future__ import annotations

import argparse
import enum
import math
import os
import pathlib
import random
import time
from collections import OrderedDict
from typing import Any

import pytest
import yaml

from ckptman.text import strict_yaml
from ckptman.text.errors import CkptmanError, ConfigurationError, RefusedError
from ckptman.text.strict_yaml import MAX_DEPTH, load_yaml


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers that PyYAML may have: LibYAML's, and its own where that is missing."""
    loader = getattr(yaml, request.param, None)
    if loader is None:
        pytest.skip("PyYAML was built without LibYAML")
    monkeypatch.setattr(strict_yaml, "_Loader", loader)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-06", 1e-06), ("1e-4", 1e-4), ("1.0e-06", 1e-06), ("-.5E+3", -500.0), ("1.", 1.0), ("0.0", 0.0),
        ("1e999", math.inf), (".inf", math.inf), ("-.Inf", -math.inf),
        ("0", 0), ("-12", -12), ("+7", 7), ("0010", 10), ("0o17", 15), ("0xfF", 255),
        ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("1_000", "1_000"), ("1:30", "1:30"), ("2026-11-23", "2026-11-23"),
        ("'1'", "1"), ('"true"', "true"), ("1e", "1e"), ("e5", "e5"), (".", "."), ("tRUE", "tRUE"), ("<<", "<<"),
        ("!!str 1", "1"), ("!!float 1", 1.0), ("!!int '3'", 3), ("! 5", "5"),
        ("=", "="), ("'≤ 5 × 3'", "≤ 5 × 3"), ("|\n a\n b\n", "a\nb\n"),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    loaded = load_yaml(text, "x")
    assert loaded == value
    assert type(loaded) is type(value)


def test_not_a_number_is_a_float() -> None:
    loaded = load_yaml("{a: .nan}", "x")
    assert isinstance(loaded, dict)
    assert math.isnan(loaded["a"])


def test_collections_and_comments() -> None:
    text = "---\n# head\na: [1, {b: 2}, []]  # tail\n'c': {}\nd:\n- x\n-\n  y: z\n...\n"
    assert load_yaml(text, "x") == {"a": [1, {"b": 2}, []], "c": {}, "d": ["x", {"y": "z"}]}


def test_an_empty_document_is_none() -> None:
    assert load_yaml("# nothing\n", "x") is None


def test_bytes_and_text_give_the_same() -> None:
    assert load_yaml("\ufeffa: ü".encode(), "x") == load_yaml("a: ü", "x") == {"a": "ü"}
    assert load_yaml("\ufeffa: ü", "x") == {"a": "ü"}


def test_what_pyyaml_writes_is_read_back() -> None:
    # But for text such as "1e5", which PyYAML writes without quotes and the core schema reads as a number.
    value = {"a": [1, 2.5, True, None, "no", "1.5", "0x10", "~", "2026-01-01", "é\n", ""], "b": {"c": 1e-06, "5": -0.0}}
    assert load_yaml(yaml.safe_dump(value), "x") == value


class Mode(enum.Enum):
    """As programs have them."""

    MIX = "mix"


DUMPED: list[tuple[Any, Any]] = [
    ((0.9, 0.95), [0.9, 0.95]), (pathlib.PurePosixPath("/data/x"), "/data/x"), (Mode.MIX, "mix"),
    (pathlib.PureWindowsPath(r"C:\data"), r"C:\data"), (argparse.Namespace(a=1), {"a": 1}),
    (OrderedDict(a=(1,)), {"a": [1]}), (OrderedDict(), {}), (os.system, f"{os.system.__module__}.system"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "plain"), DUMPED, ids=lambda value: type(value).__name__)
def test_of_what_python_dumped_the_plain_data_is_read(value: Any, plain: Any) -> None:
    text = yaml.dump({"lr": 1e-4, "own": value})
    assert "!!python/" in text
    assert load_yaml(text, "x", dumped=True) == {"lr": 1e-4, "own": plain}
    with pytest.raises(ConfigurationError, match="is not allowed"):  # of what no program wrote
        load_yaml(text, "x")


@pytest.mark.parametrize("made_of", [["a"], ["a", "b"], [[1]], [[[[1], 2]]]])
def test_an_ordered_dictionary_of_no_pairs_is_read_as_what_it_was_made_of(made_of: list[Any]) -> None:
    text = f"!!python/object/apply:collections.OrderedDict {made_of}"
    assert load_yaml(text, "x", dumped=True) == (made_of[0] if len(made_of) == 1 else made_of)


def test_what_a_tag_would_call_is_not_called(tmp_path: pathlib.Path) -> None:
    text = f"!!python/object/apply:os.system ['touch {tmp_path}/x']"
    with pytest.raises(ConfigurationError, match="is not allowed"):
        load_yaml(text, "x", dumped=True)
    assert load_yaml(text.replace("apply", "new"), "x", dumped=True) == [f"touch {tmp_path}/x"]
    assert not list(tmp_path.iterdir())
    yaml.unsafe_load(text)  # the control
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


BAD: dict[str, tuple[Any, str, int, Any]] = {
    "python tag": ("a: 1\nb: !!python/object/apply:os.system ['true']", "yaml-tag", 2, "a: 1\nb: ['true']"),
    "python name": ("!!python/name:os.system ''", "yaml-tag", 1, "''"),
    "own tag": ("!mine 1", "yaml-tag", 1, "1"),
    "tag on a list": ("a: !mine [1]", "yaml-tag", 1, "a: [1]"),
    "tag on a mapping": ("!!set {a: null}", "yaml-tag", 1, "{a: null}"),
    "binary": ("!!binary aGk=", "yaml-tag", 1, "aGk="),
    "timestamp": ("!!timestamp 2026-01-01", "yaml-tag", 1, "2026-01-01"),
    "wrong type": ("a: !!int x", "yaml-value", 1, "a: !!int 1"),
    "digits": (f"a: {'9' * 5000}", "yaml-value", 1, f"a: {'9' * 50}"),
    "anchor": ("a: &x 1", "yaml-alias", 1, "a: 1"),
    "anchor on a list": ("a: &x [1]", "yaml-alias", 1, "a: [1]"),
    "alias": ("a: 1\nb: *x", "yaml-alias", 2, "a: 1\nb: x"),
    "merge by alias": ("a: {x: 1}\nb:\n  <<: *a", "yaml-alias", 3, "a: {x: 1}\nb:\n  <<: a"),
    "duplicate": ("a: 1\nb: 2\n'a': 3", "yaml-duplicate-key", 3, "a: 1\nb: 2\n'c': 3"),
    "duplicate in depth": ("a:\n  - {b: 1, b: 1}", "yaml-duplicate-key", 2, "a:\n  - {b: 1, c: 1}"),
    "duplicate number": ("1: a\n0x1: b", "yaml-duplicate-key", 2, "1: a\n0x2: b"),
    "list as key": ("? [1]\n: 2", "yaml-key", 1, "? 1\n: 2"),
    "mapping as key": ("{a: 1}: 2", "yaml-key", 1, "{a: 1}"),
    "two documents": ("a: 1\n---\nb: 2", "yaml-documents", 2, "---\na: 1"),
    "too deep": ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "yaml-too-deep", 1, "[" * MAX_DEPTH + "]" * MAX_DEPTH),
    "deep mappings": ("{a: " * (MAX_DEPTH + 2), "yaml-too-deep", 1, "{a: " * MAX_DEPTH + "}" * MAX_DEPTH),
    "open bracket": ("a: 1\nb: ]", "yaml-syntax", 2, "a: 1\nb: []"),
    "tab": ("a:\n\t- b", "yaml-syntax", 2, "a:\n - b"),
    "unknown directive prefix": ("!x!y 1", "yaml-syntax", 1, "1"),
    "not utf-8": (b"a: 1\nb: \xff", "yaml-encoding", 2, b"a: 1\nb: f"),
    "utf-16": ("a: 1".encode("utf-16"), "yaml-encoding", 1, "a: 1".encode("utf-8-sig")),
    "nul": ("a: \0", "yaml-encoding", 0, "a: 0"),
    "surrogate": ("a: \ud800", "yaml-encoding", 0, "a: \u00df"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_plain_data_is_refused_with_its_line(name: str) -> None:
    source, code, line, control = BAD[name]
    with pytest.raises(ConfigurationError) as caught:
        load_yaml(source, "ckptman.yaml")
    assert caught.value.code == code
    assert caught.value.message.startswith(f"ckptman.yaml, line {line}: " if line else "ckptman.yaml: ")
    assert caught.value.fix
    load_yaml(control, "ckptman.yaml")


@pytest.mark.parametrize("escape", [r"\ud800", r"\UFFFFFFFF", r"\U00110000"])
def test_an_escape_that_is_no_character_is_refused(escape: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_yaml(f'a: 1\nb: "{escape}"', "x")
    assert caught.value.code in ("yaml-syntax", "yaml-encoding")  # LibYAML finds it itself
    assert load_yaml('a: 1\nb: "\\u00df"', "x") == {"a": 1, "b": "ß"}


def test_the_caller_chooses_the_class_of_the_error() -> None:
    with pytest.raises(RefusedError, match=r"^files/config\.yaml, line 1: "):
        load_yaml("*a", "files/config.yaml", error=RefusedError)


def test_a_large_document_is_refused_unread() -> None:
    with pytest.raises(ConfigurationError, match="1,000,001 bytes") as caught:
        load_yaml(b"#" * 1_000_001, "x")
    assert caught.value.code == "yaml-too-large"
    assert load_yaml(b"#" * 1_000_000, "x") is None


def test_a_laughing_billion_costs_nothing() -> None:
    lines = ["a: &a [lol, lol]"] + [
        f"{b}: &{b} [*{a}, *{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    begun = time.process_time()
    with pytest.raises(ConfigurationError, match="line 1: anchor &a"):
        load_yaml("\n".join(lines), "x")
    assert time.process_time() - begun < 0.1


def test_mutated_documents_give_a_value_or_the_error_in_bounded_time() -> None:
    rng = random.Random(1)
    seeds = [control for *_, control in BAD.values()] + [source for source, *_ in BAD.values()]
    spice = [b"&a ", b"*a", b"!!", b"!<", b"? ", b"- ", b": ", b"{", b"[", b"|\n", b">\n", b"%YAML 1.1\n", b"---\n"]
    outcomes = set()
    slowest = 0.0
    for _ in range(1500):
        document = bytearray(_bytes(rng.choice(seeds))[:400])
        for _ in range(rng.randint(1, 6)):
            at = rng.randint(0, len(document))
            document[at : at + rng.choice((0, 0, 1, 5))] = rng.choice((rng.choice(spice), rng.randbytes(1)))
        begun = time.process_time()
        try:
            load_yaml(bytes(document), "x")
            outcomes.add("value")
        except CkptmanError as error:
            outcomes.add(error.code)
        slowest = max(slowest, time.process_time() - begun)
    assert {"value", "yaml-syntax", "yaml-tag", "yaml-alias", "yaml-encoding"} <= outcomes
    assert slowest < 0.1


def _bytes(source: Any) -> bytes:
    return source if isinstance(source, bytes) else source.encode(errors="surrogatepass")
