"""Where a run belongs: by its configuration, never by the folder it lay in."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ckptman.rules.convention_file import built_in, load_convention
from ckptman.rules.layout import Levels
from ckptman.rules.placement import group_of, named_by_folders, place_of, root_above
from ckptman.rules.recipe import TrainConfig
from ckptman.text.errors import ConfigurationError, RefusedError

DYNAMIC: dict[str, Any] = {"layernorm": True, "regime": "dynamic"}


def config(**values: Any) -> dict[str, Any]:
    return TrainConfig(**{"train_max_k": 8, "wandb_group": "len_gen_k8", **values}).to_dict()


def folder(values: dict[str, Any], **said: Any) -> str:
    return str(place_of(values, built_in(), **said).run_folder(built_in()))


def test_the_four_families() -> None:
    fixed = {"train_min_k": 8}
    assert folder(config()) == "with_layernorm/dynamic/len_gen_k8/task_0006/seed_1337"
    assert folder(config(**fixed)) == "with_layernorm/fixed/len_gen_single_k8/task_0003/seed_1337"
    assert folder(config(use_layernorm=False)) == "without_layernorm/dynamic/len_gen_no_ln_k8/task_0006/seed_1337"
    assert (
        folder(config(use_layernorm=False, **fixed))
        == "without_layernorm/fixed/len_gen_single_no_ln_k8/task_0003/seed_1337"
    )


def test_the_source_folder_has_no_say_in_a_known_group() -> None:
    assert folder(config(), source_group="len_gen_k4", source_task=2) == folder(config())


def test_a_known_name_that_says_something_else_gives_way_to_the_configuration() -> None:
    assert folder(config(wandb_group="len_gen_k16"), source_group="len_gen_k16").split("/")[2] == "len_gen_k8"


def test_a_group_called_like_one_of_another_family_keeps_its_name() -> None:
    other = config(use_layernorm=False)
    where = "without_layernorm/dynamic/len_gen_k8/task_0002"
    assert str(place_of(other, built_in(), source_group="len_gen_k8", source_task=2).folder) == where
    # The control: of its family, it is known, and the configuration gives the task.
    assert str(place_of(other, built_in(), source_group="len_gen_no_ln_k8", source_task=2).folder).endswith("task_0006")


def test_a_group_of_no_known_pattern_keeps_its_name_and_its_task() -> None:
    place = place_of(config(train_min_k=8, n_layers=5), built_in(), source_group="huang_LN_fixed50", source_task=17)
    assert str(place.folder) == "with_layernorm/fixed/huang_LN_fixed50/task_0017"
    with pytest.raises(RefusedError) as error:
        place_of(config(), built_in(), source_group="huang_LN_fixed50")
    assert error.value.code == "no-task"


def test_the_merged_numbering_tells_mlp_runs_apart() -> None:
    merged = load_convention(numbering="merged")
    folders = [str(place_of(config(use_mlp=mlp), merged).run_folder(merged)) for mlp in (False, True)]
    assert folders == [
        "with_layernorm/dynamic/len_gen_k8/task_0002/seed_1337-mlp0",
        "with_layernorm/dynamic/len_gen_k8/task_0002/seed_1337-mlp1",
    ]


def test_an_unknown_seed_has_a_folder_too() -> None:
    values = config()
    del values["seed"]
    assert folder(values).endswith("/seed_unknown")


@pytest.mark.parametrize("name", ["../out", "a/b", "..", ".hidden", "a\nb", "a\x1b[31m", "a\\b", "x" * 201])
def test_a_group_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    assert place_of(config(), built_in(), source_group="odd name [red]", source_task=1).group == "odd name [red]"
    with pytest.raises(RefusedError) as error:
        place_of(config(), built_in(), source_group=name, source_task=1)
    assert error.value.code == "unsafe-group"


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [("use_layernorm", None, "no-family"), ("train_max_k", "8", "no-family"), ("n_layers", 3, "off-grid")],
)
def test_a_configuration_that_does_not_say_is_refused(key: str, value: Any, code: str) -> None:
    with pytest.raises(RefusedError) as error:
        folder({**config(), key: value})
    assert error.value.code == code
    assert f"{key} = {value!r}" in error.value.message


@pytest.mark.parametrize("key", ["use_layernorm", "train_max_k", "n_layers"])
def test_a_key_that_a_configuration_lacks_is_said_to_be_lacking(key: str) -> None:
    with pytest.raises(RefusedError, match=f"^the configuration has no {key} where "):
        folder({name: value for name, value in config().items() if name != key})


@pytest.mark.parametrize("values", [{"use_layernorm": 1, "use_mlp": 0}, {"train_max_k": 8.0, "seed": 1337.0}])
def test_a_configuration_has_one_place_in_all_its_spellings(values: dict[str, Any]) -> None:
    assert folder({**config(use_mlp=False), **values}) == folder(config(use_mlp=False))
    with pytest.raises(RefusedError):
        folder({**config(), "use_layernorm": 2})


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", Levels({})),
        ("with_layernorm", Levels({"layernorm": True})),
        ("without_layernorm/fixed/any name", Levels({"layernorm": False, "regime": "fixed"}, "any name")),
        ("with_layernorm/dynamic/g/task_0006", Levels(DYNAMIC, "g", 6)),
        ("with_layernorm/dynamic/g/task_0006/seed_7-x", Levels(DYNAMIC, "g", 6, "seed_7-x")),
        ("with_layernorm/dynamic/g/task_0006/seed_7/wandb", None),
        ("with_layernorm/dynamic/g/task_0006/runs", None),
        ("with_layernorm/dynamic/g/tasks", None),
        ("with_layernorm/other", None),
        ("dynamic/with_layernorm", None),
    ],
)
def test_what_the_levels_of_a_tree_say(path: str, said: Levels | None) -> None:
    assert built_in().folders.parse(PurePosixPath(path)) == said


def test_the_root_is_above_the_innermost_family() -> None:
    inner = Path("/a/with_layernorm/dynamic/g/task_0001/seed_1/with_layernorm/fixed/g")
    assert root_above(inner, built_in()) == Path("/a/with_layernorm/dynamic/g/task_0001/seed_1")
    assert root_above(inner.parents[2], built_in()) == Path("/a")
    assert root_above(Path("/a/b"), built_in()) is None


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("a/with_layernorm/dynamic/len_gen_k8/task_0006/seed_7/x.pt", ("len_gen_k8", 6, 7)),
        ("my_group/task_0002/saved_models/x.pt", ("my_group", 2, None)),
        ("task_0001/task_0002/x.pt", ("task_0001", 2, None)),
        ("task_0002/x.pt", (None, 2, None)),
        ("out/len_gen_k8/x.pt", ("len_gen_k8", None, None)),
        ("out/else/x.pt", (None, None, None)),
    ],
)
def test_what_the_folders_around_a_file_say(path: str, names: tuple[str | None, int | None, int | None]) -> None:
    assert named_by_folders(PurePosixPath(path), built_in()) == names


def test_a_group_that_was_renamed_is_known_by_what_its_runs_call_it(tmp_path: Path) -> None:
    file = tmp_path / "ckptman.yaml"
    text = """
groups:
  "len_gen_k{K}": null
  "dynamic_k{K}": {layernorm: true, regime: dynamic, grid: main, example: dynamic_k8%s}
"""
    values = config()
    file.write_text(text % ', was: ["len_gen_k{K}", old]')
    renamed = load_convention(file)
    assert group_of(values, "len_gen_k8", renamed)[0] == "dynamic_k8"
    assert group_of(values, "old", renamed)[0] == "dynamic_k8"
    assert group_of(values, "older", renamed) == ("older", None)
    file.write_text(text % "")
    assert group_of(values, "len_gen_k8", load_convention(file)) == ("len_gen_k8", None)
    file.write_text(text % ', was: "len_gen_k{8}x{"')
    with pytest.raises(ConfigurationError, match="must hold one name"):
        load_convention(file)
