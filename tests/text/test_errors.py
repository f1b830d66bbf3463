"""Errors: what they say stays with them wherever they go."""

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

import ckptman
from ckptman.fs.faults import TakenError
from ckptman.text import CkptmanError, ConfigurationError, MachineError, RefusedError, UsageError


def test_an_error_is_copied_and_pickled_whole() -> None:
    made = [
        kind("a.pt is empty", code="empty", fix="Copy it again.")
        for kind in (CkptmanError, UsageError, ConfigurationError, RefusedError, MachineError)
    ]
    for error in (*made, TakenError(Path("a.pt"))):
        error.add_note("a note")
        for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(other) is type(error)
            assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))
            assert other.code
            assert other.__notes__ == ["a note"]


def test_an_error_of_another_process_is_raised_here() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # a Pool would wait for ever
        found = pool.submit(ckptman.validate, "/no/such/tree")
        with pytest.raises(UsageError, match="/no/such/tree") as caught:
            found.result(timeout=60)
    assert caught.value.code == "no-tree"
    assert caught.value.fix
