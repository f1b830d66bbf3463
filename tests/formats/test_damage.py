"""What is said of damaged files, and of those that are no checkpoints: no more than is known."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.formats import containers
from ckptman.formats.refusals import REFUSALS
from ckptman.rules.convention_file import built_in
from ckptman.text.errors import RefusedError
from tests.helpers import hostile
from tests.helpers.hostile import End, Entry, build_zip
from tests.helpers.odd_archives import contents

ENTRIES = (Entry("top/data.pkl", hostile.weights_pickle()), Entry("top/data/0", bytes(8)))
GOOD = build_zip(ENTRIES)


def refused(path: Path) -> RefusedError:
    with pytest.raises(RefusedError) as error:
        contents(path)
    return error.value


@pytest.mark.parametrize("end", [End(), End(zip64=False)])
def test_bytes_before_an_archive_are_told_and_can_be_left_out(write: Callable[[bytes], Path], end: End) -> None:
    whole = build_zip(ENTRIES, end)
    for before in (b"\xef\xbb\xbf", b"HTTP/1.1 200 OK\r\n\r\n", b"PK\3\4" + bytes(60_000)):
        path = write(before + whole)
        error = refused(path)
        assert error.code == "broken-archive"
        assert f"there are {len(before):,} bytes before the archive" in error.message
        command = error.message.split("`")[1].replace("FILE", str(path)).replace("COPY", f"{path}.copy")
        subprocess.run(["sh", "-c", command], check=True)
        assert contents(Path(f"{path}.copy")) == contents(write(whole))
    # The control: what is said to lie elsewhere, and does not
    error = refused(write(b"hello" + whole[5:-30] + b"hello" + whole[-30:]))
    assert "before the archive" not in error.message


@pytest.mark.parametrize("code", REFUSALS)
def test_only_of_a_file_without_a_byte_is_it_said_that_its_weights_are_lost(code: str) -> None:
    without = REFUSALS[code].fix.replace("keep it, and train the run again only if its weights cannot be got out", "")
    assert ("train" in without) == (code == "empty")


def test_a_damaged_end_is_not_said_to_be_missing(write: Callable[[bytes], Path]) -> None:
    error = refused(write(GOOD[:-22] + bytes(22)))
    assert error.code == "cut"
    assert error.message.endswith("or its end is damaged")


STATE: Any = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"params": [0]}]}
STATES = {
    "the Trainer's": STATE,
    "torchtune's": {"seed": 1, "epochs_run": 2, "optimizer": STATE},
    "DeepSpeed's": {"optimizer_state_dict": {"zero_stage": 1, "base_optimizer_state": STATE}, "ds_config": {}},
}


@pytest.mark.parametrize("name", STATES)
def test_an_optimizers_state_is_called_so(tmp_path: Path, name: str) -> None:
    for content, is_told in ((STATES[name], True), ({"seed": 1, "optimizer": {"lr": 1}}, False)):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(RefusedError, match="a torch file that holds") as error:
            containers.read(tmp_path / "a.pt", built_in().checkpoint)
        assert error.value.code == "foreign"
        assert ("the state of an optimizer" in error.value.message) == is_told
        assert "leaves it where it is" in error.value.fix
