"""Headers of safetensors and the `.metadata` of DCP, changed by structure and by bytes: each is read, or refused."""

from __future__ import annotations

import json
import mmap
import pickletools
import random
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ckptman.formats import containers, mapping, safetensors
from ckptman.formats.refusals import REFUSALS
from ckptman.rules.convention_file import built_in
from ckptman.text import RefusedError
from tests.helpers import model_folders
from tests.helpers.looking import little_memory, nothing_done
from tests.helpers.mutations import changed, mutated
from tests.helpers.promises import HOSTILE_FILES, ONE_READER, caught, tried
from tests.helpers.slices import SLICE, SLICES
from tests.helpers.timed import in_time

RULES = built_in().checkpoint
MOST_SECONDS: Final = 0.5


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
    with little_memory():
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
def test_a_slice_of_mutations(tmp_path: Path, name: str, seed: int) -> None:
    with tried(HOSTILE_FILES, SLICE // 2):
        check(tmp_path, name, SLICE // 2, seed)


def respelt(header: bytes, draw: random.Random) -> bytes:
    """A header that says the same in another way, or almost."""
    twice = draw.choice((b"lm_head.weight", b"layer.0.weight", b"__metadata__"))
    return draw.choice((
        header.replace(b"}}", b'}, "' + twice + b'": {"dtype": "F32", "shape": [1, 3], "data_offsets": [0, 12]}}', 1),
        b" " * draw.randrange(2) + header + draw.choice((b" ", b"\n", b"\0", b"  ")),
        header.replace(b"F32", draw.choice((b"I32", b"U32", b"f32", b"F8_E4M3")), draw.randrange(1, 4)),
        header.replace(b'"shape": [', b'"shape": [' + draw.choice((b"1, ", b"1.0, ", b"-0, ", b"+1, ")), 1),
        header.replace(b"data_offsets", b"data\\u005foffsets", 1).replace(b"layer", b"l\\u0061yer", 1),
    ))  # fmt: skip


def read_alike(folder: Path, count: int, seed: int) -> int:
    """Mutated files of safetensors are refused, or have the tensors that its own reader finds; how many were read."""
    draw, original, read = random.Random(seed), Safetensors(folder), 0
    for number in range(count):
        original.write(draw, draw.choice((0, 0, 1)))
        content = original.path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = respelt(content[8 : 8 + length], draw)
        original.path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
        try:
            here = {tensor.name: tensor for tensor in safetensors.read_header(original.path).tensors}
        except RefusedError:
            continue
        read += 1
        content = original.path.read_bytes()
        with safe_open(original.path, "pt") as there:
            assert here.keys() == set(there.keys()), (seed, number)
            for name, tensor in here.items():
                found = there.get_tensor(name)
                assert (tensor.shape, f"torch.{tensor.dtype}") == (tuple(found.shape), str(found.dtype))
                assert (
                    bytes(found.contiguous().view(-1).view(torch.uint8).tolist())
                    == (content[tensor.start : tensor.start + tensor.nbytes])
                )
    return read


def test_safetensors_are_read_as_their_own_reader_reads_them(tmp_path: Path) -> None:
    with tried(ONE_READER, 1_000 * SLICES):
        assert read_alike(tmp_path, 1_000 * SLICES, SLICES) > 200 * SLICES


def test_a_header_that_its_own_reader_does_not_read_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors, "_check_cover", lambda *_: None)
    with caught(ONE_READER), pytest.raises(SafetensorError):
        read_alike(tmp_path, 1_000, 1)


def test_what_is_done_besides_is_seen() -> None:
    """The control of the hook."""
    with nothing_done() as seen:
        compile("1", "", "eval")
    assert seen == ["compile"]
    with pytest.raises(AssertionError), little_memory(10_000_000), mmap.mmap(-1, 100_000_000) as fresh:
        fresh.write(bytes(100_000_000))  # what other tests have let go would be taken first
