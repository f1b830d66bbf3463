"""What a checkpoint says of itself, read without torch: both forms, and every reason to refuse a file."""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import random
import subprocess
import sys
import time
import types
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptman.formats import checkpoint
from ckptman.formats.archive import verify_crcs
from ckptman.formats.checkpoint import CheckpointInfo, TensorInfo, read_checkpoint
from ckptman.formats.plain_values import MAX_TEXT
from ckptman.formats.refusals import REFUSALS
from ckptman.rules.convention_file import built_in
from ckptman.rules.recipe import TrainConfig
from ckptman.text.errors import RefusedError
from ckptman.training.model import GPT, GPTConfig
from tests.helpers import hostile
from tests.helpers.hostile import dict_, get, number, put, tensor, text
from tests.helpers.mutations import mutated
from tests.helpers.timed import in_time

RULES = built_in().checkpoint
SETTINGS = TrainConfig(n_embd=8, n_layers=2, use_mlp=True)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], CheckpointInfo]:
    """Reads a checkpoint from its bytes."""

    def read_bytes(content: bytes) -> CheckpointInfo:
        path = tmp_path / "file.pt"
        path.write_bytes(content)
        return read_checkpoint(path, RULES)

    return read_bytes


def trained() -> tuple[GPT, torch.optim.Optimizer]:
    """A model after one step."""
    model = GPT(GPTConfig.from_train_config(SETTINGS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return model, optimizer


# --- both forms -------------------------------------------------------------------------------------------------------


def test_form_a(read: Callable[[bytes], CheckpointInfo]) -> None:
    model, optimizer = trained()
    content = hostile.saved(
        {
            "itr": 20_000,
            "iters_done": 20_001,
            "run_id": "r2b80i45",
            "train_config": SETTINGS.to_dict(),
            "model_config": {"block_size": 65},
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "note": "hello",
        }
    )
    info = read(content)
    assert (info.form, info.size) == ("A", len(content))
    assert (info.iters_done, info.itr, info.run_id) == (20_001, 20_000, "r2b80i45")
    assert info.config == SETTINGS.to_dict()
    assert info.config_class is None
    assert info.model_config == {"block_size": 65}
    assert info.other_keys == ("note",)
    assert info.tensors == tuple(
        TensorInfo(name, tuple(value.shape), "float32") for name, value in model.state_dict().items()
    )
    assert not info.compiled
    assert info.parameters == sum(value.numel() for value in model.parameters())  # each tied weight once
    assert info.optimizer is not None
    parameters = len(list(model.parameters()))
    assert (info.optimizer.states, info.optimizer.tensors) == (parameters, 3 * parameters)
    (group,) = info.optimizer.groups
    assert group.parameters == parameters
    assert group.hyperparameters["lr"] == 1e-3
    assert group.hyperparameters["betas"] == [0.9, 0.95]
    assert "params" not in group.hyperparameters


def test_what_is_printed_of_it_fits_a_screen(read: Callable[[bytes], CheckpointInfo]) -> None:
    def screen(info: CheckpointInfo) -> int:
        return sum(-(-len(line) // 80) for line in str(info).splitlines())

    config = SETTINGS.to_dict() | {"save_dir": "a\u202eb\n"}
    content = hostile.saved({"iters_done": 20, "train_config": config, "model": trained()[0].state_dict()})
    info = read(content)
    shown = str(info)
    assert "iterations done" in shown
    assert f"{info.parameters:,} parameters, float32" in shown
    assert "n_layers=2" in shown
    assert "\u202e" not in shown
    large = replace(info, config={f"key_{number}": number for number in range(900)}, tensors=info.tensors * 200,
                    missing=("a.bin", "b.bin"))  # fmt: skip
    assert screen(info) < 24
    assert screen(large) < 24
    assert len(repr(large)) > 24 * 80, "the control"


def test_only_weights_are_needed(read: Callable[[bytes], CheckpointInfo]) -> None:
    info = read(hostile.saved({"model": {"w": torch.zeros(2, dtype=torch.bfloat16)}}))
    assert info.tensors == (TensorInfo("w", (2,), "bfloat16"),)
    assert (info.iters_done, info.itr, info.run_id, info.config, info.model_config, info.optimizer) == (None,) * 6


@pytest.fixture
def config_class(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The configuration class, as if the script of this name had defined it."""

    def define(full_name: str) -> Any:
        module_name, _, name = full_name.rpartition(".")
        module = types.ModuleType(module_name)
        cls = type(name, (TrainConfig,), {"__module__": module_name})
        setattr(module, name, cls)
        monkeypatch.setitem(sys.modules, module_name, module)
        return cls

    return define


@pytest.mark.parametrize("full_name", ["__main__.TrainConfig", "sortGPT_len_generalization.TrainConfig"])
def test_form_b(read: Callable[[bytes], CheckpointInfo], config_class: Callable[[str], Any], full_name: str) -> None:
    model, optimizer = trained()
    content = hostile.saved(
        {
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "config": config_class(full_name)(**SETTINGS.to_dict()),
            "iters_done": 40_000,
        }
    )
    info = read(content)
    assert (info.form, info.iters_done, info.itr) == ("B", 40_000, None)
    assert info.config == SETTINGS.to_dict()
    assert info.config_class == full_name
    assert len(info.tensors) == len(model.state_dict())
    assert info.optimizer is not None


def test_form_b_with_the_class_of_this_package(read: Callable[[bytes], CheckpointInfo]) -> None:
    info = read(hostile.saved({"model_state_dict": {"w": torch.zeros(1)}, "config": SETTINGS}))
    assert (info.config, info.config_class) == (SETTINGS.to_dict(), "ckptman.TrainConfig")


def test_another_class_as_configuration_is_read_too(tmp_path: Path, config_class: Callable[[str], Any]) -> None:
    path = tmp_path / "file.pt"
    config = config_class("trainer.Config")()
    torch.save({"model_state_dict": {"w": torch.zeros(1)}, "config": config}, path)
    info = read_checkpoint(path, RULES)
    assert (info.config_class, info.config, info.foreign) == ("trainer.Config", config.to_dict(), ())
    torch.save({"model_state_dict": {"w": torch.zeros(1)}, "config": {}, "other": config}, path)
    assert read_checkpoint(path, RULES).foreign == (("trainer.Config", "instance", ("other",)),)


def test_the_form_that_knows_most_keys_is_taken(read: Callable[[bytes], CheckpointInfo]) -> None:
    weights = {"w": torch.zeros(1)}
    both = {"model": weights, "model_state_dict": weights, "iters_done": 1}
    assert read(hostile.saved(both | {"config": {}, "optimizer_state_dict": None})).form == "B"
    assert read(hostile.saved(both | {"train_config": {}, "itr": 0})).form == "A"


def test_compiled_model(read: Callable[[bytes], CheckpointInfo]) -> None:
    weights = hostile.good_dict()["model"]
    plain = read(hostile.saved({"model": weights}))
    compiled = read(hostile.saved({"model": {f"_orig_mod.{name}": value for name, value in weights.items()}}))
    assert compiled.tensors == plain.tensors
    assert (plain.compiled, compiled.compiled) == (False, True)


def test_views_of_a_storage_have_at_most_its_elements(read: Callable[[bytes], CheckpointInfo]) -> None:
    base = torch.zeros(10)
    info = read(hostile.saved({"model": {"a": base[:6], "b": base[4:], "c": torch.zeros(1).expand(1_000_000)}}))
    assert info.parameters == 10 + 1


def test_configuration_in_plain_values(read: Callable[[bytes], CheckpointInfo]) -> None:
    config = {
        "amp_dtype": torch.bfloat16,
        "device": torch.device("cuda", 0),
        "save_dir": pathlib.PurePosixPath("/data/run"),
        "lengths": (4, 8),
        "losses": [0.5, float("inf"), float("-inf"), float("nan")],
        "nothing": None,
        "flag": True,
    }
    info = read(hostile.saved({"model": {"w": torch.zeros(1)}, "train_config": config}))
    assert info.config == {
        "amp_dtype": "torch.bfloat16",
        "device": "cuda:0",
        "save_dir": "/data/run",
        "lengths": [4, 8],
        "losses": [0.5, "Infinity", "-Infinity", "NaN"],
        "nothing": None,
        "flag": True,
    }
    json.dumps(info.config, allow_nan=False)


def test_several_optimizers(read: Callable[[bytes], CheckpointInfo]) -> None:
    one = hostile.good_dict()["optimizer"]
    one["param_groups"][0] |= {"lr": torch.tensor(1e-3), "decay": float("inf"), "nested": [[1]]}
    info = read(hostile.saved({"model": {"w": torch.zeros(1)}, "optimizer": [one, one]})).optimizer
    assert info is not None
    assert (info.states, info.tensors, len(info.groups)) == (2, 6, 2)
    assert info.groups[0].hyperparameters["lr"] == pytest.approx(1e-3)
    assert info.groups[0].hyperparameters["decay"] == "Infinity"
    assert info.groups[0].hyperparameters["nested"] == [[1]]


def test_torch_agrees(read: Callable[[bytes], CheckpointInfo]) -> None:
    content = hostile.good()
    info = read(content)
    loaded = torch.load(io.BytesIO(content), weights_only=True)
    assert info.config == loaded["train_config"]
    assert info.iters_done == loaded["iters_done"]
    assert {tensor.name: tensor.shape for tensor in info.tensors} == {
        name: tuple(value.shape) for name, value in loaded["model"].items()
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(read: Callable[[bytes], CheckpointInfo], protocol: int) -> None:
    assert read(hostile.saved(hostile.good_dict(), pickle_protocol=protocol)) == replace(
        read(hostile.good()), size=len(hostile.saved(hostile.good_dict(), pickle_protocol=protocol))
    )


def test_a_checkpoint_is_read_without_torch(tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(hostile.good())
    program = (
        "import sys; from ckptman.formats import read_checkpoint, whole;"
        "from ckptman.rules import convention_file;"
        "import pathlib; rules = convention_file.built_in().checkpoint;"
        "assert whole.read_whole(pathlib.Path('file.pt'), rules).damage is None;"
        "assert read_checkpoint('file.pt', convention_file.built_in().checkpoint).iters_done == 3;"
        "print(sorted({'torch', 'numpy', 'pickle', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- every reason to refuse a file ------------------------------------------------------------------------------------

HOSTILE = {case.name: case for case in hostile.hostile_checkpoints()}


def read_all(path: Path) -> CheckpointInfo:
    """As ingest does."""
    info = read_checkpoint(path, RULES)
    verify_crcs(path)
    return info


def code_of_all(path: Path) -> str | None:
    """With which code a file is refused that is read so; one that is not has to be plain."""
    try:
        info = read_all(path)
    except RefusedError as error:
        return error.code
    json.dumps([info.config, info.model_config, info.other_keys], allow_nan=False)
    return None


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(tmp_path: Path, name: str) -> None:
    case = HOSTILE[name]
    path = case.write(tmp_path)
    start = time.thread_time()
    with pytest.raises(RefusedError) as error:
        read_all(path)
    assert time.thread_time() - start < 3  # for 1 MB; that the others take less is tested with the mutations
    assert error.value.code == case.code
    assert error.value.fix == REFUSALS[case.code].fix
    assert error.value.message.startswith(f"{path}: ")
    assert len(error.value.message) < 700 + len(str(path))
    assert error.value.message.isprintable()


def test_every_code_has_its_file() -> None:
    reached = {case.code for case in HOSTILE.values()}
    # The first two are no matter of the content; the others are reached in test_containers.py.
    assert reached | {"unreadable", "not-a-file", "bad-header", "incomplete-folder"} == set(REFUSALS)


@pytest.mark.parametrize(("name", "code"), [("folder.pt", "not-a-file"), ("missing.pt", "unreadable")])
def test_what_is_no_file(tmp_path: Path, name: str, code: str) -> None:
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(RefusedError) as error:
        read_all(tmp_path / name)
    assert error.value.code == code


UNBROKEN = {
    "torch": hostile.good(),
    "built": hostile.archive(),
    "built-with-many-storages": hostile.archive(hostile.weights_pickle(), {str(i): bytes(8) for i in range(100)}),
    "storage-longer-than-its-tensors": hostile.archive(hostile.weights_pickle(), {"0": bytes(9)}),
    "another-entry": hostile.archive(None, None, hostile.Entry("top/evil", b"")),
    "record": hostile.archive(
        hostile.pickle(dict_(model_state_dict=dict_(w=tensor()), config=hostile.record(n_layers=number(1)))),
        {"0": bytes(8)},
    ),
}


@pytest.mark.parametrize("name", UNBROKEN)
def test_the_same_files_unbroken_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(UNBROKEN[name])
    assert read_all(path).tensors


@pytest.mark.parametrize(
    "change",
    [
        {"iters_done": 0},
        {"iters_done": None},
        {"itr": 0},
        {"run_id": "1"},
        {"run_id": ""},
        {"train_config": {"save_dir": "config.json"}},
        {"train_config": {"layers": [1]}},
        {"train_config": {"layers": [0] * 5_000}},
        {"train_config": None},
        {"model_config": {"layers": 1}},
        {"model": hostile.good_dict()["model"] | {"note": torch.zeros(1)}},
        {"model": hostile.good_dict()["model"] | {"_orig_mod.other": torch.zeros(4)}},
        {"optimizer": None},
        {"optimizer": {"state": {}}},
        {"optimizer": {"state": {}, "param_groups": [{}]}},
        {"note": [None, {"anything": (1, "plain")}]},
    ],
    ids=repr,
)
def test_the_same_fields_unbroken_are_read(read: Callable[[bytes], CheckpointInfo], change: dict[str, Any]) -> None:
    assert read(hostile.saved(hostile.good_dict() | change)).form == "A"


def test_a_payload_is_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "file.pt"
    torch.save(hostile.good_dict() | {"train_config": hostile.Payload(marker)}, path)
    with pytest.raises(RefusedError, match=r"calls posix\.mkdir \(in train_config\)"):
        read_all(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the control: an executed pickle does make it
    assert marker.exists()


def test_nothing_is_written_where_an_entry_points(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    for name in ("archive-name-above", "archive-name-above-inside", "archive-name-absolute"):
        path = HOSTILE[name].write(folder)
        with pytest.raises(RefusedError):
            read_all(path)
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
    assert len(list(folder.iterdir())) == 3


def test_cut_at_many_lengths(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    content = hostile.good()
    for length in (*range(0, len(content), 31), len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(RefusedError) as error:
            read_checkpoint(path, RULES)
        assert error.value.code == ("cut" if length else "empty"), length
    path.write_bytes(content)
    assert read_all(path)


# --- long texts that stand in many places -----------------------------------------------------------------------------


def shared_text(times: int, length: int, build: Callable[[bytes], bytes]) -> bytes:
    """A checkpoint in which one text stands under many keys of a dictionary."""
    start = dict_(note=text("a" * length) + put(0), model=dict_(w=tensor()))
    entries = b"".join(text(str(i)) + get(0) for i in range(times))
    return hostile.archive(hostile.pickle(start.removesuffix(b"u"), build(entries), b"u"), {"0": bytes(8)})


def in_config(entries: bytes) -> bytes:
    return text("train_config") + b"}(" + entries + b"u"


def in_hyperparameters(entries: bytes) -> bytes:
    group = b"}(" + entries + b"u"
    return text("optimizer") + dict_(state=b"}", param_groups=b"](" + group + b"e")


@pytest.mark.parametrize("build", [in_config, in_hyperparameters])
def test_a_long_text_in_many_places(read: Callable[[bytes], CheckpointInfo], build: Callable[[bytes], bytes]) -> None:
    assert read(shared_text(9, MAX_TEXT // 10, build))
    with pytest.raises(RefusedError, match="characters of text or more, more than 1,048,576") as error:
        read(shared_text(5_000, MAX_TEXT // 2, build))
    assert error.value.code == "bad-field"


def test_a_group_in_many_places(read: Callable[[bytes], CheckpointInfo]) -> None:
    group = dict_(note=text("a" * 100_000)) + put(0)
    for times, fits in ((5, True), (50_000, False)):
        groups = b"](" + group + get(0) * times + b"e"
        optimizer = dict_(state=b"}", param_groups=groups)
        content = hostile.archive(hostile.pickle(dict_(model=dict_(w=tensor()), optimizer=optimizer)), {"0": bytes(8)})
        if fits:
            assert read(content)
        else:
            with pytest.raises(RefusedError, match="characters of text"):
                read(content)


# --- mutations --------------------------------------------------------------------------------------------------------


def check_mutations(path: Path, count: int, seed: int) -> None:
    """Change the `data.pkl` of good checkpoints: they are read or refused, in little time."""
    draw = random.Random(seed)
    originals = []
    for content in (hostile.good(), UNBROKEN["built"], UNBROKEN["record"]):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        originals.append(
            (entries["data.pkl"], {name[5:]: data for name, data in entries.items() if name[:5] == "data/"})
        )
    codes: set[str | None] = set()
    for index in range(count):
        data, storages = originals[index % len(originals)]
        path.write_bytes(hostile.archive(mutated(data, draw), storages))
        codes.add(in_time(lambda: code_of_all(path)))
    assert codes >= {None, "unsafe-pickle", "broken-pickle", "cut-pickle", "bad-tensor", "foreign"}
    assert codes <= {None, *REFUSALS}


def test_mutations(tmp_path: Path) -> None:
    check_mutations(tmp_path / "file.pt", 2_000, 1)


@pytest.mark.slow
def test_10_000_mutations(tmp_path: Path) -> None:
    check_mutations(tmp_path / "file.pt", 10_000, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (str({"lr": 1e-4, "name": "it's", "betas": (0.9, 0.95), "x": None}),
         {"lr": 1e-4, "name": "it's", "betas": [0.9, 0.95], "x": None}),
        (str(argparse.Namespace(lr=0.1, n=[1, 2])), {"lr": 0.1, "n": [1, 2]}),
        ("{'lr': print(1)}", None),
        ("Namespace(lr=print(1))", None),
        ("{" * 60_000, None),
        ("{'a': " + "-" * 60_000 + "1}", None),
        ("{[]: 1}", None),
    ],
)  # fmt: skip
def test_a_configuration_as_python_prints_it_is_read_and_not_run(
    tmp_path: Path, text: str, expected: dict[str, Any] | None
) -> None:
    torch.save({"model": {"w": torch.ones(2)}, "config": text}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt", built_in().checkpoint).config == expected


def test_nothing_is_printed_of_text_that_python_would_warn_of() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert checkpoint._printed("{'a': 1if 1 else 2}") is None
    assert told == []
