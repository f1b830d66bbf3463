"""Headers of safetensors and the `.metadata` of DCP, changed by structure and by bytes: each is read, or refused."""

from __future__ import annotations

import json
import pickletools
import random
import struct
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import torch
from safetensors.torch import save

from ckptman.formats import containers, mapping
from ckptman.formats.refusals import REFUSALS
from ckptman.rules.convention_file import built_in
from ckptman.text import RefusedError
from tests.helpers import model_folders
from tests.helpers.looking import nothing_done
from tests.helpers.mutations import changed, mutated
from tests.helpers.promises import HOSTILE_FILES, tried
from tests.helpers.slices import SLICES
from tests.helpers.timed import in_time

RULES = built_in().checkpoint
MOST_SECONDS: Final = 0.5
MOST_BYTES: Final = 200_000_000


class Safetensors:
    """A file of safetensors with a configuration in its metadata."""

    reached: Final = frozenset({None, "bad-header", "bad-tensor", "cut"})

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.safetensors"
        weights = {f"layer.{index}.weight": torch.full((index + 1, 3), float(index)) for index in range(5)}
        weights["lm_head.weight"] = torch.zeros(4, dtype=torch.bfloat16)
        content = save(weights, {"train_config": json.dumps({"seed": 1, "n_layers": 2}), "format": "pt"})
        length = struct.unpack("<Q", content[:8])[0]
        self.header, self.rest = json.loads(content[8 : 8 + length]), content[8 + length :]

    def write(self, draw: random.Random, times: int) -> None:
        header = self.header
        for _ in range(times):
            header = changed(header, draw)
        text = json.dumps(header).encode()
        if times and draw.random() < 0.3:
            text = mutated(text, draw)
        length = max(0, len(text) + (draw.choice((1, -1, 8, 2**40)) if times and draw.random() < 0.05 else 0))
        rest = self.rest[: draw.randrange(len(self.rest))] if times and draw.random() < 0.05 else self.rest
        self.path.write_bytes(struct.pack("<Q", length) + text + rest)


class Distributed:
    """A folder of DCP."""

    reached: Final = frozenset({None, "bad-header", "unsafe-pickle", "broken-pickle", "cut-pickle"})

    def __init__(self, folder: Path) -> None:
        self.path = folder / "dcp"
        weights = {"w.weight": torch.ones(4, 3), "w.bias": torch.zeros(4, dtype=torch.bfloat16)}
        optimizer = {"state": {0: {"step": torch.ones(2)}}}
        model_folders.distributed(self.path, model=weights, optimizer=optimizer)
        self.metadata = self.path / ".metadata"
        self.data = self.metadata.read_bytes()
        found = list(pickletools.genops(self.data))
        places = [at for _, _, at in found if at is not None]
        self.pieces = [self.data[at:end] for at, end in zip(places, [*places[1:], len(self.data)], strict=True)]

    def write(self, draw: random.Random, times: int) -> None:
        pieces = list(self.pieces)
        for _ in range(times):
            at, kind = draw.randrange(3, len(pieces)), draw.randrange(7)
            other = draw.randrange(3, len(pieces))
            if kind == 0:
                del pieces[at]
            elif kind == 1:
                pieces.insert(at, pieces[other])
            elif kind == 2:
                pieces[at], pieces[other] = pieces[other], pieces[at]
            elif kind == 3:
                pieces[at] = pieces[other]
            elif kind == 4:
                pieces[at] = bytes([pieces[at][0], *(byte ^ draw.choice((0, 1, 128)) for byte in pieces[at][1:])])
            elif kind == 5 and pieces[at][:1] in b"KMJ":
                pieces[at] = b"\x8a\x08" + draw.choice((0, 1, 7, 2**31, 2**62)).to_bytes(8, "little")
            else:
                pieces[at] = mutated(pieces[at], draw)
        self.metadata.write_bytes(b"".join(pieces))


MAKERS: Final[dict[str, Callable[[Path], Safetensors | Distributed]]] = {
    "safetensors": Safetensors,
    "distributed": Distributed,
}


def read_all(path: Path) -> str | None:
    """The code with which a checkpoint is refused by its header, or by its weights where all of them are there."""
    try:
        info = containers.read(path, RULES)
        json.dumps([info.config, info.model_config, info.other_keys], allow_nan=False)
        if not info.missing:
            mapping.map_weights(path, RULES, verify=False)
    except RefusedError as error:
        return error.code if error.message.isprintable() and len(error.message) < 2000 else "unreadable message"
    return None


def check(folder: Path, name: str, count: int, seed: int) -> None:
    draw = random.Random(seed)
    original = MAKERS[name](folder)
    original.write(draw, 0)
    assert read_all(original.path) is None  # the control
    codes: Counter[str | None] = Counter()
    for _ in range(count):
        original.write(draw, draw.choice((1, 1, 1, 2, 3)))
        with nothing_done() as seen:
            codes[in_time(lambda: read_all(original.path), MOST_SECONDS)] += 1
        assert seen == []
    assert codes.keys() >= original.reached
    assert codes.keys() <= {None, *REFUSALS}


@pytest.mark.parametrize("name", MAKERS)
def test_mutations(tmp_path: Path, name: str) -> None:
    check(tmp_path, name, 1000, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 2 + SLICES))
@pytest.mark.parametrize("name", MAKERS)
def test_5_000_mutations_a_slice(tmp_path: Path, name: str, seed: int) -> None:
    with tried(HOSTILE_FILES, 5_000):
        check(tmp_path, name, 5_000, seed)


@pytest.mark.parametrize("name", MAKERS)
def test_mutations_take_little_memory(tmp_path: Path, name: str) -> None:
    original = MAKERS[name](tmp_path)
    draw = random.Random(3)
    tracemalloc.start()
    try:
        for _ in range(100):
            original.write(draw, 2)
            read_all(original.path)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def test_what_is_done_besides_is_seen() -> None:
    """The control of the hook."""
    with nothing_done() as seen:
        compile("1", "", "eval")
    assert seen == ["compile"]
