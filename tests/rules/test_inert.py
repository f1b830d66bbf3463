"""Which names can be admitted as inert: none that reaches the system, however it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptman.formats.pickle_reader import read_pickle
from ckptman.rules import inert
from ckptman.rules.convention_file import load_convention
from ckptman.text.errors import CkptmanError, RefusedError
from tests.helpers import hostile, payloads

ADMISSIBLE = (
    "trainer.tools.make_schedule",
    "__main__.build",
    "torch.distributed.tensor.DTensor",
    "torchao.dtypes.make_tensor",
    "transformers.trainer_utils.make",
    "numpy.polynomial.polynomial.Polynomial",
    "pandas._libs.internals._unpickle_block",
    "collections.deque",
    "mylab.systems.Model",
    "os_tools.path",
    "evaluate.compare",
)


def full_name(function: str) -> str:
    return function.replace(" ", ".")


def reaching() -> list[str]:
    return [name for name in map(full_name, payloads.CALLS) if not name.startswith(("anylib", "numpy.core.anything"))]


@pytest.mark.parametrize("name", reaching())
def test_what_reaches_the_system_is_never_admitted(name: str, tmp_path: Path) -> None:
    assert inert.reaches_system(name)
    (tmp_path / "ckptman.yaml").write_text(f"checkpoint: {{inert: [{name}]}}\n")
    with pytest.raises(CkptmanError, match=name.rpartition(".")[2]):
        load_convention(tmp_path / "ckptman.yaml")


def test_asking_for_it_does_not_help() -> None:
    """Where a convention has such a name all the same."""
    for function, arguments in payloads.CALLS.items():
        name = full_name(function)
        if inert.reaches_system(name):
            data = hostile.pickle(hostile.call(function, *map(hostile.text, arguments)))
            with pytest.raises(RefusedError):
                read_pickle(data, inert=(name,))


@pytest.mark.parametrize("name", ADMISSIBLE)
def test_what_does_not_is_admitted_by_its_name(name: str, tmp_path: Path) -> None:
    assert not inert.reaches_system(name)
    (tmp_path / "ckptman.yaml").write_text(f"checkpoint: {{inert: [{name}]}}\n")
    assert load_convention(tmp_path / "ckptman.yaml").checkpoint.inert == (name,)


def test_an_admitted_call_is_a_record_of_its_arguments() -> None:
    module, _, function = "trainer.tools.make_schedule".rpartition(".")
    data = hostile.pickle(hostile.dict_(s=hostile.call(f"{module} {function}", hostile.number(3))))
    with pytest.raises(RefusedError, match=r"calls trainer\.tools\.make_schedule \(in s\)"):
        read_pickle(data)
    pickled = read_pickle(data, inert=("trainer.tools.make_schedule",))
    record = pickled.value["s"]
    assert (record.class_name, record.args, record.called) == ("trainer.tools.make_schedule", (3,), True)
    assert pickled.foreign == (("trainer.tools.make_schedule", "call", ("s",)),)
    with pytest.raises(RefusedError, match=r"trainer\.tools\.make_schedule"):
        read_pickle(data, inert=("trainer.tools.make", "tools.make_schedule"))


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("a.b", True), ("a.B.c", True), ("größe.x", True), ("a", False), ("", False), (".a", False), ("a.", False),
        ("a..b", False), ("a b.c", False), ("a.b\n", False), ("a.1", False), ("a.b()", False),
    ],
)  # fmt: skip
def test_full_names(name: str, is_one: bool) -> None:
    assert inert.is_full_name(name) == is_one
