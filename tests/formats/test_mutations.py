"""Pickles changed instruction by instruction: each is read, or refused with a reason, and nothing else happens."""

from __future__ import annotations

import json
import pickle as stdlib_pickle
import pickletools
import random
import struct
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.formats import checkpoint
from ckptman.formats.pickle_reader import read_pickle
from ckptman.formats.plain_values import Plain
from ckptman.formats.refusals import REFUSALS
from ckptman.rules.convention_file import built_in
from ckptman.text.errors import RefusedError
from tests.helpers import contents, hostile, payloads
from tests.helpers.looking import little_memory, nothing_done
from tests.helpers.promises import HOSTILE_FILES, caught, tried
from tests.helpers.slices import SLICE, SLICES
from tests.helpers.timed import in_time

RULES = built_in().checkpoint
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's, of what is experimental in it
MOST_SECONDS = 0.25
"""Of processor time, for a pickle of some kilobytes."""
SKIPPED = ("FRAME", "STOP")


def instructions(data: bytes) -> list[bytes]:
    """A pickle's instructions: first its protocol; those of the memo as MEMOIZE; without frames and the last one."""
    found = list(pickletools.genops(data))
    ends = [at for _, _, at in found[1:]] + [len(data)]
    pieces = []
    for (info, _, at), end in zip(found, ends, strict=True):
        if info.name in ("BINPUT", "LONG_BINPUT"):
            pieces.append(b"\x94")
        elif info.name not in SKIPPED and at is not None and end is not None:
            pieces.append(data[at:end])
    return pieces


def put_together(pieces: list[bytes]) -> bytes:
    return b"".join(pieces) + hostile.STOP


@cache
def originals() -> tuple[list[list[bytes]], list[bytes]]:
    """Checkpoints with every content in each of several places, and all their instructions."""
    programs = []
    with contents.modules(*contents.CLASSES):
        for index, (name, make) in enumerate(contents.CONTENTS.items()):
            key = ("train_config", "optimizer", "iters_done", "model", "note")[index % 5]
            value = make()
            whole: dict[str, Any] = {
                **hostile.good_dict(),
                key: {"w": torch.ones(2), "x": value} if key == "model" else value,
            }
            try:
                content = hostile.saved(whole, pickle_protocol=(2, 4)[index % 2])
            except (TypeError, AttributeError):  # pragma: no cover
                raise AssertionError(name) from None
            with zipfile.ZipFile(BytesIO(content)) as archive:
                programs.append(instructions(archive.read("archive/data.pkl")))
    pool = list(dict.fromkeys(piece for program in programs for piece in program[1:]))
    pool += [piece for data in hostile_pickles() for piece in instructions(data)[1:]]
    return programs, pool


def hostile_pickles() -> Iterator[bytes]:
    for function in list(payloads.CALLS)[::10]:
        yield from payloads.in_every_way(function, payloads.CALLS[function]).values()


def changed(piece: bytes, draw: random.Random) -> bytes:
    """An instruction with another argument."""
    if piece[:1] in b"KMJ" and piece:
        return hostile.number(draw.choice((0, 1, -1, 3, 255, 256, 65_536, -(2**31), 2**31 - 1, 2**63, 2**64, 10**30)))
    if piece[:1] == b"X" and piece:
        return hostile.text(
            draw.choice(("", "a", "f8", "O8", "V8", "0", "cpu", "storage", "latin1", "größe", "a" * 300))
        )
    if piece[:1] == b"G" and piece:
        return b"G" + struct.pack(">d", draw.choice((0.0, -1.5, float("nan"), float("inf"), 1e300)))
    if piece[:1] in (b"h", b"j"):
        return hostile.get(draw.randrange(300))
    return bytes([piece[0], *(byte ^ draw.choice((0, 0, 1, 128)) for byte in piece[1:])])


def mutated(program: list[bytes], pool: list[bytes], draw: random.Random) -> bytes:
    """A pickle with one to three of its instructions changed, moved, lost or doubled, or others put in."""
    out = list(program)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at = draw.randrange(1, len(out))
        kind = draw.randrange(8)
        if kind <= 1:
            out[at] = changed(out[at], draw)
        elif kind == 2:
            out[at] = draw.choice(pool)
        elif kind == 3:
            out.insert(at, draw.choice(pool))
        elif kind == 4:
            del out[at]
        elif kind == 5:
            out.insert(at, out[at])
        elif kind == 6:
            other = draw.randrange(1, len(out))
            out[at], out[other] = out[other], out[at]
        else:
            other, length = draw.randrange(len(out)), draw.choice((2, 5, 20))
            out[at : at + draw.choice((0, length))] = program[other : other + length]
    return put_together(out)


def check(path: Path, count: int, seed: int) -> Counter[str | None]:
    """Read mutated checkpoints, and count by which code they are refused."""
    draw = random.Random(seed)
    programs, pool = originals()
    codes: Counter[str | None] = Counter()
    storages = {str(number): bytes(256) for number in range(12)}
    path.write_bytes(hostile.good())
    assert read_all(path, None) is None  # and what is imported at the first reading is there
    with little_memory():
        for index in range(count):
            data = mutated(programs[index % len(programs)], pool, draw)
            path.write_bytes(hostile.archive(data, storages))
            with nothing_done() as done:
                codes[in_time(partial(read_all, path, data if index % 4 == 0 else None), MOST_SECONDS)] += 1
            assert done == [], (seed, index)
    assert codes.keys() <= {None, *REFUSALS}
    return codes


def read_all(path: Path, data: bytes | None) -> str | None:
    """The code with which a checkpoint, or else its pickle alone, is refused."""
    try:
        info = checkpoint.read_checkpoint(path, RULES)
        json.dumps([info.config, info.model_config, info.other_keys, info.unused_configs], allow_nan=False)
        if data is not None:
            json.dumps(Plain("value").value(read_pickle(data).value), allow_nan=False)
    except RefusedError as error:
        return error.code if error.message.removeprefix(str(path)).isprintable() else "a message that is no text"
    return None


REACHED = {None, "unsafe-pickle", "broken-pickle", "bad-tensor", "bad-field", "cut-pickle"}


def test_what_is_mutated_is_read_unchanged(tmp_path: Path) -> None:
    """The control: a file that is only taken apart and put together again is what it was."""
    programs, _ = originals()
    codes: Counter[str | None] = Counter()
    storages = {str(number): bytes(6000) for number in range(30)}
    for program in programs:
        (tmp_path / "file.pt").write_bytes(hostile.archive(put_together(program), storages))
        try:
            checkpoint.read_checkpoint(tmp_path / "file.pt", RULES)
            codes[None] += 1
        except RefusedError as error:
            codes[error.code] += 1
    assert codes.keys() == {None}


def test_mutations(tmp_path: Path) -> None:
    assert check(tmp_path / "file.pt", 3_000, 1).keys() >= REACHED


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 2 + SLICES))
def test_a_slice_of_mutations(tmp_path: Path, seed: int) -> None:
    with tried(HOSTILE_FILES, SLICE):
        assert check(tmp_path / "file.pt", SLICE, seed).keys() >= REACHED


def look_a_name_up() -> None:
    stdlib_pickle.loads(b"cos\ngetpid\n.")


def take_long() -> None:
    begun = time.thread_time()
    while time.thread_time() < begun + MOST_SECONDS:
        pass


def raise_something_else() -> None:
    raise KeyError("x")


@pytest.mark.parametrize("control", [look_a_name_up, take_long, raise_something_else])
def test_a_reader_that_does_more_than_read_would_be_found(
    tmp_path: Path, control: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.describe

    def describe(*arguments: Any) -> Any:
        if arguments[2].size != len(hostile.good()):
            control()
        return real(*arguments)

    monkeypatch.setattr(checkpoint, "describe", describe)
    with caught(HOSTILE_FILES), pytest.raises((AssertionError, KeyError)):
        check(tmp_path / "file.pt", 100, 1)
