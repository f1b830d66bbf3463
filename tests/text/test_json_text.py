"""Records as JSON: read strictly by their types, and written so that they can be read again."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from ckptman.sweeps.executors.job import JobOutcome
from ckptman.text.json_text import document_of, dump_json, dump_line, jsonable, load_json, record_of
from ckptman.training.progress import Progress, RunStatus

STATUS = RunStatus(
    state="running", run_id="abcd1234", iters_done=4, max_iters=9, reason="", log="", host="h", pid=1, updated=1.5
)


@pytest.mark.parametrize("loss", [0.5, math.inf, -math.inf, math.nan, None])
def test_a_diverged_run_can_still_say_how_it_stands(loss: float | None) -> None:
    for record in (RunStatus(**{**vars(STATUS), "loss": loss}), JobOutcome(state="failed", loss=loss)):
        back = record_of(type(record), json.loads(dump_json(document_of(record))))
        assert repr(back) == repr(record)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("iters_done", "4", "Expected `int`, got `str` - at `$.iters_done`"),
        ("iters_done", 4.0, "at `$.iters_done`"),
        ("iters_done", True, "at `$.iters_done`"),
        ("updated", "1.5", "at `$.updated`"),
        ("state", None, "at `$.state`"),
        ("loss", "nan", "at `$.loss`"),
        ("loss", 10**400, "at `$.loss`"),
        ("config", [1], "at `$.config`"),
        ("newer", {"a": 1}, None),
        ("pid", 2**70, None),
        ("updated", 1, None),
    ],
)
def test_a_status_is_read_strictly_and_with_what_a_newer_version_adds(key: str, value: Any, told: str | None) -> None:
    document = document_of(STATUS) | {key: value}
    if told is None:
        assert record_of(RunStatus, document).run_id == "abcd1234"
        return
    with pytest.raises(ValueError, match=re.escape(told)):
        record_of(RunStatus, document)


@pytest.mark.parametrize("document", [[], None, "x", 1])
def test_what_is_no_object_is_no_record(document: Any) -> None:
    assert record_of(Progress, {}) == Progress()
    with pytest.raises(ValueError, match="Expected `object`"):
        record_of(Progress, document)


@pytest.mark.parametrize(
    "document",
    [{}, [], {"a": [], "b": {}, "c": [1, {"d": None, "e": [[]]}]}, {"é\u2028": 1e22, "f": -1.5e-7}, ["\udcff"], 10**30],
)
def test_json_is_laid_out_as_the_standard_library_does(document: Any) -> None:
    assert dump_json(document) == (json.dumps(document, indent=1) + "\n").encode("ascii")
    assert json.loads(dump_line(document)) == document
    assert dump_line(document).isascii()


@pytest.mark.parametrize("text", ["[NaN, -Infinity, 1e999]", '{"a": 1, "a": 2}', '"\\ud800"', "123456789012345678901"])
def test_json_of_anybody_is_read_as_the_standard_library_does(text: str) -> None:
    assert load_json(text.encode()) == jsonable(json.loads(text))
    with pytest.raises(ValueError, match="char"):
        load_json(text.encode() + b"]")


def test_numbers_that_json_lacks_are_text() -> None:
    """As the loss of a run that diverged, in what `train --json` prints."""
    document = {"loss": math.nan, "gen_em": [math.inf, -math.inf], "name": "\udce9"}
    assert json.loads(dump_json(document)) == {"loss": "NaN", "gen_em": ["Infinity", "-Infinity"], "name": "\udce9"}


def test_json_is_utf_8_and_its_bytes_choose_no_codec() -> None:
    assert load_json(b'\xef\xbb\xbf{"a": NaN}') == {"a": "NaN"}
    with pytest.raises(UnicodeDecodeError):
        load_json('{"a": NaN, "ß": 1}'.encode("utf-16-le"))
