"""TensorBoard's event files: scalars are read, all else is passed over, and nothing in a file is trusted."""

from __future__ import annotations

import math
import random
import tracemalloc
from pathlib import Path

import pytest

from ckptman.raw import tensorboard
from ckptman.raw.tensorboard import MAX_RECORD_BYTES, read_scalars
from ckptman.text.errors import RefusedError
from ckptman.tree import history
from tests.helpers import beside as bs
from tests.helpers.mutations import mutated
from tests.helpers.slices import SLICES
from tests.helpers.timed import in_time

ROWS = [(100, {"train/loss": 2.5, "lr": 0.1}), (200, {"train/loss": 1.25}), (300, {"val/acc": 0.3})]
CURVE = history.of_rows(dict(ROWS))


def read(tmp_path: Path, data: bytes) -> history.History:
    path = tmp_path / "events.out.tfevents.1700000000.host.7.0"
    path.write_bytes(data)
    return read_scalars(path)


@pytest.mark.parametrize("as_tensors", [False, True])
def test_scalars_come_back_as_they_were_logged(tmp_path: Path, as_tensors: bool) -> None:
    assert read(tmp_path, bs.event_file(ROWS, as_tensors=as_tensors)) == CURVE


def test_the_checksum_is_the_one_of_the_format() -> None:
    # CRC-32C of the nine digits is 0xE3069283 (RFC 3720, appendix B.4); the mask is that of TFRecord files.
    crc = 0xE3069283
    assert tensorboard._masked(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_what_is_no_scalar_is_passed_over(tmp_path: Path) -> None:
    others = [bs.image_event(150, 3 * MAX_RECORD_BYTES), bs.image_event(150, 100), bs.vector_event(150)]
    assert read(tmp_path, b"".join(map(bs.framed, others)) + bs.event_file(ROWS)) == CURVE


def test_numbers_that_are_not_finite_and_steps_below_zero_are_kept(tmp_path: Path) -> None:
    curve = read(tmp_path, bs.event_file([(-1, {"loss": math.inf}), (2, {"loss": math.nan}), (3, {"x": 3.0e38})]))
    assert curve.steps == (-1, 2, 3)
    assert curve.columns["loss"][0] == math.inf
    assert math.isnan(curve.columns["loss"][1] or 0)
    assert curve.columns["x"][2] == 3.0e38


def test_a_cut_file_is_read_up_to_there(tmp_path: Path) -> None:
    whole = bs.event_file(ROWS)
    assert read(tmp_path, whole[:-1]) == history.of_rows(dict(ROWS[:2]))
    assert read(tmp_path, whole[:40]) == history.of_rows({})
    assert read(tmp_path, b"") == history.of_rows({})


def test_a_damaged_record_is_left_out_and_a_damaged_length_ends_the_file(tmp_path: Path) -> None:
    whole = bytearray(bs.event_file(ROWS))
    at = whole.index(b"lr")
    changed = bytes(whole[:at]) + b"xx" + bytes(whole[at + 2 :])
    assert "lr" not in read(tmp_path, changed).columns
    assert "val/acc" in read(tmp_path, changed).columns
    first = len(bs.framed(b"")) + 24  # the first record is the version
    whole[first] ^= 1
    assert read(tmp_path, bytes(whole)).steps == ()


@pytest.mark.parametrize("data", [b"no event file at all", b"\xff" * 100, b"{}"])
def test_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(RefusedError, match="no event file") as caught:
        read(tmp_path, data)
    assert caught.value.code == "damaged"


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(bs.event_file(ROWS))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(RefusedError, match="not a regular file"):
        read_scalars(tmp_path / "link")
    assert read_scalars(tmp_path / "real") == CURVE


def test_a_length_beyond_the_file_takes_no_memory(tmp_path: Path) -> None:
    import struct

    length = struct.pack("<Q", 1 << 62)
    data = bs.event_file(ROWS) + length + struct.pack("<I", tensorboard._masked(length)) + bytes(100)
    tracemalloc.start()
    assert read(tmp_path, data) == CURVE
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_a_curve_is_limited_in_numbers_and_in_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(step, {f"metric{step}": 1.0}) for step in range(10)]
    assert len(read(tmp_path, bs.event_file(rows)).steps) == 10
    monkeypatch.setattr(history, "MOST_CELLS", 99)
    with pytest.raises(RefusedError, match="10 steps and 10 metrics") as caught:
        read(tmp_path, bs.event_file(rows))
    assert caught.value.code == "too-long"
    monkeypatch.setattr(history, "MOST_VALUES", 9)
    with pytest.raises(RefusedError, match="more than 9"):
        read(tmp_path, bs.event_file(rows))


def is_refused(path: Path) -> bool:
    try:
        history.load(history.dump(read_scalars(path)))
    except RefusedError:
        return True
    return False


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    draw = random.Random(5)
    whole = bs.event_file(ROWS) + bs.event_file(ROWS, as_tensors=True)
    path = tmp_path / "events"
    refused = 0
    for _ in range(2000 * SLICES):
        # The checksums made right again, so that what is inside is met.
        data = b"".join(bs.framed(mutated(record, draw)) for record in bs.records(whole))
        path.write_bytes(data if draw.random() < 0.8 else mutated(whole, draw))
        refused += in_time(lambda: is_refused(path), 0.5)
    assert refused < 1000 * SLICES
