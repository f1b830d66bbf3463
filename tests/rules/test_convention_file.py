"""The convention file: it loads, it is checked, and a lab's file extends it without Python."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptman.cli.app import run
from ckptman.rules.convention_file import BUILT_IN, built_in, find_file, load_convention, rules_for
from ckptman.rules.grids import cells, task_of
from ckptman.rules.naming import naming_of
from ckptman.rules.placement import place_of
from ckptman.text.errors import ConfigurationError, UsageError
from tests.helpers.raw import config
from tests.helpers.trees import make_tree
from tests.helpers.worked_example import WORKED_EXAMPLE


def extended(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "ckptman.yaml"
    file.write_text(text)
    return file


def test_built_in_grid_is_the_published_one() -> None:
    grid = built_in().grids["main"]
    configurations = sum(len(cells(grid, regime, "full")) for regime in grid.regimes) * len(grid.k)
    assert configurations == 84
    assert len(grid.seeds) == 3


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_convention(extended(tmp_path, "")).groups == built_in().groups


def test_the_same_bytes_are_the_same_rules(tmp_path: Path) -> None:
    """So that what is derived from them, and kept, is made once, in a process that asks a thousand times."""
    file = extended(tmp_path, "title: one\n")
    first = load_convention(file)
    assert load_convention(file) is first
    assert load_convention(file, numbering="merged") is not first
    assert load_convention(extended(tmp_path, "title: two\n")).title == "two"


def test_the_rules_of_a_call_are_those_given_or_those_of_its_place(tmp_path: Path) -> None:
    place = tmp_path / "tree" / "file.pt"
    assert rules_for(None, place).title == built_in().title
    file = extended(tmp_path, "title: mine\n")
    assert rules_for(None, place).title == "mine"
    assert rules_for(built_in(), place) is built_in()
    given: list[Any] = [str(file), file, {}, built_in().checkpoint]
    for other in given:
        with pytest.raises(UsageError, match="is no convention") as caught:
            rules_for(other, place)
        assert "ckptman.load_convention" in caught.value.fix


def test_numbering_can_be_chosen(tmp_path: Path) -> None:
    assert load_convention(extended(tmp_path, "numbering: merged\n")).numbering == "merged"
    assert load_convention(extended(tmp_path, "numbering: merged\n"), numbering="full").numbering == "full"


def test_a_lab_adds_a_field_a_group_and_a_grid_without_python(tmp_path: Path) -> None:
    convention = load_convention(extended(tmp_path, WORKED_EXAMPLE))
    config = {
        "vocab_n": 128, "n_embd": 128, "n_heads": 1, "n_layers": 2, "without_pos": True, "use_mlp": False,
        "use_layernorm": True, "length_mode": "mix", "train_min_k": 2, "train_max_k": 8, "test_min_k": 17,
        "test_max_k": 32, "allow_duplicates": False, "weight_decay": 0.1, "wandb_group": "decay_k8", "seed": 2,
    }  # fmt: skip
    name = naming_of(convention).name_for(config, convention.prefixes[1], 40000)
    assert name.endswith("_nodup1_wd0.1_iters40000.pt")
    assert naming_of(convention).parse(name).values["weight_decay"] == 0.1
    assert task_of(convention.grids["decay"], "dynamic", "full", config) == 3
    place = place_of(config, convention, source_group="decay_k8")
    assert str(place.run_folder(convention)) == "with_layernorm/dynamic/decay_k8/task_0003/seed_2"
    # Names without the new field still parse.
    assert naming_of(convention).parse(built_in().name_examples[0])


def test_the_worked_example_is_the_documented_one() -> None:
    guide = Path(__file__).parents[2] / "docs" / "your_own_experiment.md"
    assert WORKED_EXAMPLE in guide.read_text()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("numberin: merged\n", "did you mean 'numbering'"),
        ("numbering: merge\n", "did you mean 'merged'"),
        ("numbering: {a: 1}\n", "numbering must be text"),
        ("- a list\n", "must be a mapping"),
        ("version: 2\n", "version 2"),
        ("name: {fields: {L: {config: n_layers, typ: int}}}\n", "unknown key 'typ'"),
        ("name: {fields: {L: {config: n_layers, type: integer}}}\n", "must be one of int, bool"),
        ("name: {fields: {wd: {config: weight_decay, type: float, after: nodupe}}}\n", "did you mean 'nodup'"),
        ("name: {fields: {wd_: {config: weight_decay, type: float}}}\n", "a tag is made of letters"),
        ("name: {fields: {wd: {config: weight_decay, type: float}}}\n", "does not follow the naming convention"),
        ("name: {fields: {trainK: {config: [train_min_k]}}}\n", "a range has two keys"),
        ("name: {fields: {L: {inverted: true}}}\n", "only a bool can be inverted"),
        ("name: {examples: [nonsense.pt]}\n", "nonsense.pt"),
        ('groups: {"x_{K}": {layernorm: true, regime: dynamic, grid: main, example: y_8}}\n', "is not of this pattern"),
        ('groups: {"x_k{K}": {layernorm: true, regime: dynamic, grid: man, example: x_k8}}\n', "no grid 'man'"),
        ('groups: {"x/k{K}": {layernorm: true, regime: dynamic, grid: main, example: x/k8}}\n', "letters, digits"),
        ('groups: {"x": {layernorm: maybe, regime: dynamic, grid: main, example: x}}\n', "one of with, without"),
        ('groups: {"x": {layernorm: true, grid: main, example: x}}\n', "a part for each of dynamic, fixed"),
        ('groups: {"x_{K": {layernorm: true, regime: dynamic, grid: main, example: x_8}}\n', "must hold one name"),
        ('groups: {"x_{regime}": {layernorm: true, regime: fixed, grid: main, example: x_1}}\n', "is a facet of cond"),
        ('groups: {"no_such_k{K}": null}\n', "takes a key away"),
        ("grids: {main: {seeds: [1, 1]}}\n", "stands there twice"),
        ("grids: {main: {axes: {n_layers: []}}}\n", "a list with something in it"),
        ("grids: {main: {regimes: {fixed: {axes: [n_layer]}}}}\n", "no axis 'n_layer'"),
        ('tree: ["{group}", "task_{task:04d}", "run"]\n', "{seed} in its last"),
        ("folders: {run: seed}\n", "{seed} in its last"),
        ("folders: {task: {digits: 10}}\n", "must be 1 to 9"),
        ('tree: ["{group}", "{group}", "seed_{seed}"]\n', "stands there twice"),
        ('tree: ["all", "{group}", "seed_{seed}"]\n', "all runs would share it"),
        ('tree: ["task_{task}", "{group}", "seed_{seed}"]\n', "lies below the group's"),
        ('tree: ["{group}-{task}", "seed_{seed}"]\n', "a level of their own"),
        ('tree: ["{layrnorm}", "{group}", "seed_{seed}"]\n', "did you mean 'layernorm'"),
        ('tree: ["{group}", "../{seed}"]\n', "letters, digits"),
        ("facets: {layernorm: {values: {with: {folder: without_layernorm}}}}\n", "two of its values have one folder"),
        ("facets: {layernorm: {values: {without: {is: true}}}}\n", "two of its values have one value"),
        ("facets: {layernorm: {absent: without_it}}\n", "did you mean 'without'"),
        ("facets: {regime: {values: {fixed: {when: train_min_k = 3}}}}\n", "is no condition"),
        ("facets: {size: {title: the size}}\n", "neither a key"),
        ("facets: {group: {config: n_layers}}\n", "cannot be a facet's name"),
        ("facets: {layernorm: {values: {with: {when: use_mlp == true}}}}\n", "needs no condition"),
        ("raw: {task: tasks}\n", "must hold {task} once"),
        ("grids: {main: {regimes: {other: {axes: [n_layers]}}}}\n", "are not the values of one facet"),
        ("a: &x 1\nb: *x\n", "anchor"),
        ("numbering: full\nnumbering: merged\n", "twice"),
        ("title: !!python/object/apply:os.system [true]\n", "python"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_convention(extended(tmp_path, text))
    assert told in error.value.message
    assert "ckptman.yaml" in error.value.message


def test_the_nearest_file_going_up_counts(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    outer = extended(tmp_path, "")
    assert find_file(deep) == outer
    inner = extended(tmp_path / "a", "")
    assert find_file(deep) == inner
    assert find_file(deep / "not" / "there") == inner


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda file: file.symlink_to(file), lambda file: file.symlink_to("none")]
)
def test_a_configuration_that_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "a").mkdir()
    outer, inner = extended(tmp_path, ""), tmp_path / "a" / "ckptman.yaml"
    make(inner)
    with pytest.raises(ConfigurationError, match="is not a file") as error:
        find_file(tmp_path / "a" / "b")
    assert str(inner) in error.value.message
    assert error.value.exit_status == 2
    assert find_file(tmp_path) == outer
    inner.rmdir() if inner.is_dir() else inner.unlink()
    inner.symlink_to(outer)  # the control: a link to a file is one
    assert find_file(tmp_path / "a" / "b") == inner


def test_settings_are_values_or_lists_of_them(tmp_path: Path) -> None:
    file = extended(tmp_path, "settings: {ignore: [missing-seed, missing-task], settle: 5}\n")
    assert load_convention(file).settings == {"ignore": ("missing-seed", "missing-task"), "settle": 5}
    for text in ("ignore: {a: 1}", "ignore: [[a]]", "ignore: []"):
        with pytest.raises(ConfigurationError, match=r"settings\.ignore"):
            load_convention(extended(tmp_path, f"settings: {{{text}}}\n"))


def test_a_numbering_that_was_asked_for_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    file = extended(tmp_path, "title: ours\n")
    for given in (None, file):
        with pytest.raises(ConfigurationError) as error:
            load_convention(given, numbering="merge")
        assert "did you mean 'merged'?" in error.value.message
        assert ".yaml" not in error.value.message
        assert "--numbering, or CKPTMAN_NUMBERING" in error.value.fix
    with pytest.raises(ConfigurationError, match=re.escape(str(file))):  # the control: the file's own numbering
        load_convention(extended(tmp_path, "numbering: merge\n"))


# --- settings on the command line -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignored", ["[missing-seed, missing-task]", "missing"])
def test_a_setting_gives_several_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    root = make_tree(tmp_path, [config(4, train_min_k=4, wandb_group="len_gen_single_k4")])
    monkeypatch.chdir(tmp_path)
    assert run(["validate"]) == 1
    assert "missing-seed" in capsys.readouterr().out
    (tmp_path / "ckptman.yaml").write_text(f"settings: {{ignore: {ignored}}}\n")
    assert run(["validate", "--root", str(root)]) == 0
    assert run(["validate", "--ignore", "missing-task"]) == 1  # flags come before settings
    assert "missing-seed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "setting", "told"),
    [
        ("ingest", "settle: abc", "settle: 'abc' is not a number"),
        ("ingest", "settle: -1", "settle: -1 is not a number"),
        ("ingest", "settle: [1, 2]", "settle: cannot be [1, 2]: one value is wanted, not 2"),
        ("ingest", "mode: hard", "mode: 'hard' is none of copy, "),
        ("ls", "limit: 0", "limit: 0 is not a whole number"),
        ("ls", "mode: hard", "mode: 'hard' is none of copy, "),
    ],
)
def test_a_bad_setting_is_blamed_on_its_file(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    setting: str,
    told: str,
) -> None:
    file = extended(tmp_path, f"settings: {{{setting}}}\n")
    (tmp_path / "raw").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments = [command, "--root", "tree", *(["raw"] if command == "ingest" else [])]
    assert run(arguments) == 2
    err = capsys.readouterr().err
    assert f"ERROR {file}: settings: {told}" in err
    assert "CKPTMAN_" not in err
    file.write_text("settings: {settle: 5, mode: hardlink, seed: [1337]}\n")  # the control
    (tmp_path / "tree").mkdir()
    assert run(arguments) == 0


def test_the_built_in_file_is_in_the_package() -> None:
    assert BUILT_IN.is_file()
