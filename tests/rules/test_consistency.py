"""What a convention says wrong is refused with its place: misspelt keys, wrong types, sections that differ."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from ckptman.rules import Convention
from ckptman.rules.convention_file import BUILT_IN, built_in, convention_of
from ckptman.text import strict_yaml
from ckptman.text.errors import ConfigurationError
from tests.helpers.slices import few

EVERYTHING = """\
metrics:
  far: {pattern: "gen/K{k}/exact", k: [51, test_max_k], title: F, buckets: {middle: [51, 100], long: [101, 150]}}
  loss: {pattern: val/loss, share: false, lower_is_better: true, default: false}
names:
  sweep:
    template: "{kind}_N{vocab_n}_lr{learning_rate:p}[_p{dropout:p}]_{pos:text}__{step}.pt"
    fields: {pos: {config: without_pos, words: {with-pos: false, without-pos: true}}}
    kinds: {final: Final, ckpt: Checkpoint}
    examples: [final_N128_lr0p01_with-pos__4000.pt, ckpt_N128_lr0p01_p0p1_without-pos__2000.pt]
  bare: {pattern: "a(?P<b>[0-9]+)[.]pt", fields: {b: {type: int, config: n_layers}}, kind: Final, examples: [a3.pt]}
facets:
  norm:
    {title: Norm, config: norm_type, absent: layernorm, values: {layernorm: {is: layernorm, folder: ln}, rmsnorm: {}}}
groups:
  "v{vocab_n}_e{n_embd}_k{K}":
    {regime: fixed, layernorm: true, grid: later, example: v64_e32_k16, was: "old_k{K}", title: T}
grids:
  later:
    across: [{vocab_n: [64], n_embd: [32, 64], K: [16, 32]}]
    seeds: [1337]
    axes: {n_layers: [2, 1], use_layernorm: [true, false], use_mlp: [true, false]}
    set: {train_min_k: K}
    numberings: {full: {outside: [use_mlp]}, merged: {}}
name: {keep: true}
model: {without_effect: [foo]}
checkpoint: {inert: [some.function]}
beside:
  logs.json: {config: a, values: {n_layers: b}, seed: c, metrics: d, step: e, history: f, history_step: g, up: 1}
  "{stem}.notes": {form: json, config: .}
"""
"""A convention in which every key that there is stands, beside those of the built-in one."""

FREE = {
    (), ("name", "prefixes"), ("name", "fields"), ("checkpoint", "forms"), ("beside",), ("facets",),
    ("beside", "logs.json", "values"), ("facets", "*", "values"),
    ("groups",), ("grids",), ("grids", "*", "numberings"), ("metrics",),
    ("metrics", "*", "buckets"), ("summary",), ("names",), ("names", "*", "kinds"),
    ("names", "*", "fields", "*", "words"),
}  # fmt: skip
"""Mappings whose keys are names that somebody chose; `*` is any. All other keys are those of the convention."""


def everything() -> dict[str, Any]:
    def laid_over(base: Any, more: Any) -> Any:
        if not (isinstance(base, dict) and isinstance(more, dict)):
            return more
        return {**base, **{key: laid_over(base.get(key), value) for key, value in more.items()}}

    whole: dict[str, Any] = laid_over(
        strict_yaml.load_yaml(BUILT_IN.read_bytes(), "base"), strict_yaml.load_yaml(EVERYTHING.encode(), "more")
    )
    return whole


def read(document: dict[str, Any]) -> Convention:
    """The convention of a document, which goes in as JSON, since that is read a hundred times as fast as YAML."""
    built_in()  # whose file is YAML, and is read once
    replaced = [key for key in built_in_sections() if key in document]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_yaml, "load_yaml", lambda data, *_, **__: json.loads(data))
        return convention_of(json.dumps({**document, "replaces": replaced}), "rules")


@cache
def built_in_sections() -> tuple[str, ...]:
    sections: dict[str, Any] = strict_yaml.load_yaml(BUILT_IN.read_bytes(), "base")  # type: ignore[assignment]
    return tuple(sections)


def refusal_of(document: dict[str, Any]) -> str:
    """Why a convention is refused, with its place; empty where it is taken."""
    try:
        read(document)
    except ConfigurationError as error:
        return error.message
    return ""


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from places(inner, (*place, key))


def at(document: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        document = document[key]
    return document


def is_free(place: tuple[Any, ...]) -> bool:
    return any(
        len(free) == len(place) and all(mine in ("*", key) for mine, key in zip(free, place, strict=True))
        for free in FREE
    )


def test_every_key_of_a_convention_is_refused_when_misspelt() -> None:
    document = everything()
    read(document)  # the control
    accepted = []
    for place in places(document):
        if not isinstance(place[-1], str) or (is_free(place[:-1]) and len(place) > 1):
            continue
        other = copy.deepcopy(document)
        around = at(other, place[:-1])
        wrong = f"{place[-1]}z"
        renamed = {wrong if key == place[-1] else key: value for key, value in around.items()}
        around.clear()
        around.update(renamed)
        told = refusal_of(other)
        if not any(str(word) in told for word in (*place[-2:], wrong)):
            accepted.append((place, told))
    assert accepted == []


WRONG: list[object] = [None, 7, "two words", [1], [], {"zzz": 1}, {}, [[]], 10**30, 1.5, True, ""]


@pytest.mark.parametrize("number", range(len(WRONG)), ids=map(repr, WRONG))
def test_a_value_of_a_wrong_type_is_refused_or_taken_and_never_a_fault_of_the_program(number: int) -> None:
    document, wrong = everything(), WRONG[number]
    taken = set()
    tried = few([(place, each) for place in places(document) for each in range(len(WRONG))])
    for place in (place for place, each in tried if each == number):
        other = copy.deepcopy(document)
        at(other, place[:-1])[place[-1]] = wrong
        if not refusal_of(other):
            taken.add(type(at(document, place)))
    if isinstance(wrong, list | dict) and wrong:
        assert dict not in taken or isinstance(wrong, dict), "no list is taken for a mapping"
        assert taken <= {dict, list, bool}, "no list or mapping is taken for a text or a number, but as a word's value"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('metrics: {far: {pattern: "gen/K{k}/e", k: [17, test_max_kk]}}', "metrics.far.k: the key 'test_max_kk' stands "
         "nowhere else; did you mean 'test_max_k'"),
        ('metrics: {far: {pattern: "gen/K{k}/e", k: [17, longest]}}',
         "metrics.far.k: the key 'longest' stands nowhere"),
        ('metrics: {far: {pattern: "gen/K{k}/e", k: [32, 17]}}',
         "the first length, 32, must be at least 0 and at most"),
        ('metrics: {far: {pattern: "gen/K{k}/e", k: [-1, 17]}}', "must be at least 0"),
        ('metrics: {far: {pattern: "gen/K{K}/e"}}', "only {k} may stand in braces, for a length, not {K}"),
        ("metrics: {far: {pattern: val/loss, buckets: {low: [1, 2]}}}",
         "a metric without k: [first, last] has no buckets"),
        ("grids: {main: {axes: {n_layrs: [2, 1]}}}", "grids.main.axes: the key 'n_layrs' stands nowhere else; did you "
         "mean 'n_layers'"),
        ("grids: {main: {axes: {length_mode: [mix, curiculum]}}}", "grids.main.axes.length_mode[1]: length_mode = "
         "'curiculum' cannot be written as len{mix|curriculum} in a name"),
        ("grids: {main: {axes: {n_layers: [2, .nan]}}}", "must be a finite number"),
        ("grids: {main: {across: [{n_embd: [8]}]}}",
         "grids.main.across[0].n_embd: no name of this grid's groups holds"),
        ("facets: {norm: {config: norm_typ, values: {none: {}}}}",
         "facets.norm: the key 'norm_typ' stands nowhere else"),
        ("facets: {norm: {config: norm_type, values: {rmsnrm: {}}}}",
         "facets.norm.values.rmsnrm: norm_type = 'rmsnrm'"),
        ("facets: {Kk: {config: train_max_k}}", "facets.Kk: nothing uses this facet; did you mean 'K'?"),
        ('replaces: [facets, groups, grids, tree, summary]\nfacets: {k: {config: n_layers}}\ngroups: {}\ngrids: {}\n'
         'tree: ["{group}", "seed_{seed}"]\nsummary: {}',
         "facets.k: nothing uses this facet; did you mean 'K'?"),
        ("facets: {regime: {values: {fixed: {option: fixed}}}}",
         "option must be an option such as --fixed, not 'fixed'"),
        ("summary: {layers: n_layer}",
         "summary.layers: the key 'n_layer' stands nowhere else; did you mean 'n_layers'"),
        ("axes: {n_layers: {short: L}}", "axes.n_layers.short must hold {}"),
        ('groups: {"len_gen_k{K}": {was: "old_{KK}"}}', "{KK} is in no name of this group; did you mean 'K'"),
        ('names: {s: {template: "{p:text}-{step}.pt", fields: {p: {words: {on: null}}}, examples: [on-1.pt]}}',
         "names.s.examples: 'on-1.pt': "
         "the scheme 's' has no way back to a name"),
        ("checkpoint: {forms: {A: null, B: null, nanoGPT: null, Lightning: null, weights: null}}",
         "must have at least one"),
        (f"folders: {{saved_wandb: {'w' * 300}}}", "longer than a part of a name can be"),
    ],
)  # fmt: skip
def test_sections_that_do_not_agree_are_named(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        convention_of(text, "rules")
    assert told in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        'metrics: {far: {pattern: "gen/K{k}/e", k: [test_max_k, test_max_k]}}',
        'metrics: {far: {pattern: "gen/K{k}/e", k: [17, longest]}}\naxes: {longest: {title: Longest, short: "{}"}}',
        'axes: {n_layer: {title: Layers, short: "L{}"}}\nsummary: {layers: n_layer}',
        "replaces: [facets, groups, grids, tree, summary]\nfacets: {K: {config: n_layers}, k: {config: n_embd}}\n"
        'groups: {}\ngrids: {}\ntree: ["{group}", "{k}_{seed}"]\nsummary: {}',
        "facets: {iseed: {config: iseed}, beta1: {config: beta1}, beta2: {config: beta2}}",
        "name: {keep: true}\ngrids: {main: {axes: {length_mode: [mix, uniform]}}}",
    ],
)
def test_keys_and_values_of_an_experiments_own_are_taken(text: str) -> None:
    convention_of(text, "rules")
