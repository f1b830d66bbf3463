from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from ckptman.raw.attribution import (
    AMBIGUOUS,
    END_TOLERANCE_SECONDS,
    KEY_SET,
    NONE,
    ONLY_MATCH,
    STORED,
    TIME_SPAN,
    Attribution,
    Span,
    attribute,
    in_spans,
)
from ckptman.rules.recipe import TrainConfig
from tests.helpers import hostile_wandb as hw

CONFIG = hw.CONFIG
IGNORED = frozenset({"save_dir", "wandb_entity", "device"})


@dataclass(frozen=True)
class Run:
    run_id: str
    spans: Sequence[Span] = (Span(1_000.0, 2_000.0),)
    config: Mapping[str, Any] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.config is None:
            object.__setattr__(self, "config", CONFIG)


def of(saved_at: float | None, *runs: Run, config: Mapping[str, Any] = CONFIG, **more: Any) -> Attribution:
    """The attribution, once it is sure that the order of the candidates does not matter."""
    results = {
        attribute(config, saved_at, order, ignored_keys=IGNORED, **more) for order in itertools.permutations(runs)
    }
    (result,) = results
    return result


# --- By the config --------------------------------------------------------------------------------------------------


def test_the_run_with_the_config_and_seed_of_the_checkpoint() -> None:
    others = [Run(f"seed{seed}", config={**CONFIG, "seed": seed}) for seed in (2337, 3337)]
    assert of(1_500.0, Run("mine"), *others) == Attribution(
        "mine", ONLY_MATCH, "only run on record with this config and seed", ("mine",), True
    )


def test_a_single_match_counts_whatever_the_time_and_says_so() -> None:
    outside = of(9_000_000.0, Run("mine"))
    assert (outside.run_id, outside.code, outside.in_span) == ("mine", ONLY_MATCH, False)
    assert outside.evidence == (
        "only run on record with this config and seed; the file's time lies outside the run's span (copying may "
        "not keep it)"
    )
    for saved_at, spans in (
        (None, (Span(1.0, 2.0),)),
        (5.0, ()),
        (5.0, (Span(None, None),)),
        (5.0, (Span(1.0, None),)),
    ):
        unknown = of(saved_at, Run("mine", spans))
        assert (unknown.run_id, unknown.in_span) == ("mine", None)
        assert unknown.evidence.endswith("; its span or the file's time is not known")


@pytest.mark.parametrize("key", ["seed", "n_layers", "use_mlp", "length_mode", "learning_rate", "train_max_k"])
def test_any_other_value_is_another_run(key: str) -> None:
    other = {
        "seed": 7,
        "n_layers": 2,
        "use_mlp": True,
        "length_mode": "curriculum",
        "learning_rate": 2e-4,
        "train_max_k": 4,
    }
    assert of(1_500.0, Run("mine")).run_id == "mine"
    result = of(1_500.0, Run("mine", config={**CONFIG, key: other[key]}))
    assert result == Attribution(None, NONE, "none of 1 W&B runs has this config and seed", (), None)


def test_where_a_run_was_computed_makes_no_difference() -> None:
    moved = {**CONFIG, "save_dir": "/elsewhere", "wandb_entity": "lab", "device": "cuda"}
    assert of(1_500.0, Run("mine", config=moved)).run_id == "mine"
    assert attribute(CONFIG, 1_500.0, [Run("mine", config=moved)], ignored_keys=()).code == NONE


def test_keys_that_only_one_side_has_are_not_compared() -> None:
    assert of(1_500.0, Run("mine", config={**CONFIG, "sep_id": 128})).run_id == "mine"
    assert of(1_500.0, Run("mine"), config={**CONFIG, "sep_id": 128}).run_id == "mine"


def test_the_way_through_json_and_yaml_makes_no_difference() -> None:
    written = {**CONFIG, "weight_decay": 0, "seed": 1337.0, "choices": [1, 2], "use_mlp": int(CONFIG["use_mlp"])}
    assert of(1_500.0, Run("mine", config=written), config={**CONFIG, "choices": (1, 2)}).run_id == "mine"
    assert of(1_500.0, Run("mine", config={**CONFIG, "use_mlp": 0})).run_id == "mine"
    assert of(1_500.0, Run("mine", config={**CONFIG, "use_mlp": 1})).run_id is None


@pytest.mark.parametrize(
    "config", [{}, {"seed": 1337}, {"n_layers": 1}, {k: v for k, v in CONFIG.items() if k != "seed"}]
)
def test_a_run_that_says_too_little_is_no_match(config: dict[str, Any]) -> None:
    assert of(1_500.0, Run("little", config=config)).code == NONE
    assert of(1_500.0, Run("little", config=config), Run("mine")).run_id == "mine"


def test_a_checkpoint_that_says_too_little_is_not_attributed() -> None:
    without = {k: v for k, v in CONFIG.items() if k != "seed"}
    result = of(1_500.0, Run("mine"), config=without)
    assert (result.run_id, result.code) == (None, NONE)
    assert result.evidence == "none of 1 W&B runs has this config (the checkpoint tells no seed)"
    assert of(1_500.0, Run("mine"), config={}).code == NONE
    assert of(1_500.0, Run("mine"), config={"seed": CONFIG["seed"]}).code == NONE
    assert of(1_500.0, Run("old", config=without), config=without).run_id == "old"  # of a trainer without seeds


# --- By the set of keys ---------------------------------------------------------------------------------------------

LATER = {**CONFIG, "use_xavier_init": True}


@pytest.mark.parametrize("saved_at", [None, 1e9])
def test_a_key_that_one_trainer_added_tells_two_runs_apart(saved_at: float | None) -> None:
    old, new = Run("old"), Run("new", (Span(5_000.0, 6_000.0),), LATER)
    for config, run_id in ((CONFIG, "old"), (LATER, "new")):
        found = of(saved_at, old, new, config=config)
        assert (found.run_id, found.code, found.candidates) == (run_id, KEY_SET, ("new", "old"))
        assert "the keys of the config (use_xavier_init) are those of this one only" in found.evidence
    # The control: without the key, nothing tells them apart.
    assert of(saved_at, old, Run("new", (Span(5_000.0, 6_000.0),))).code == AMBIGUOUS


def test_keys_that_one_side_always_lacks_weigh_nothing() -> None:
    derived = {"total_vocab_size": 129, "sep_id": 128}
    old, new = Run("old", config={**CONFIG, **derived}), Run("new", (Span(5_000.0, 6_000.0),), {**LATER, **derived})
    assert of(None, old, new).run_id == "old"
    assert of(None, old, new, config=LATER).run_id == "new"
    assert of(None, old, Run("again", config={**CONFIG, **derived})).code == AMBIGUOUS
    more = {**LATER, "amp": "bf16"}  # only in the checkpoint
    assert of(None, old, new, config=more).run_id == "new"


def test_where_neither_set_of_keys_is_nearer_the_time_decides() -> None:
    one, other = Run("one", config={**CONFIG, "a": 1}), Run("other", (Span(5_000.0, 6_000.0),), {**CONFIG, "b": 1})
    both = {**CONFIG, "a": 1, "b": 1}
    assert of(5_500.0, one, other, config=both).run_id == "other"
    assert of(None, one, other, config=both).code == AMBIGUOUS


def test_of_several_with_the_keys_the_time_decides() -> None:
    runs = (Run("old"), Run("new", (Span(5_000.0, 6_000.0),), LATER), Run("newer", (Span(8_000.0, 9_000.0),), LATER))
    found = of(8_500.0, *runs, config=LATER)
    assert (found.run_id, found.code, found.candidates) == ("newer", TIME_SPAN, ("new", "newer"))
    assert of(None, *runs, config=LATER).candidates == ("new", "newer")


def test_keys_and_time_that_disagree_leave_it_open() -> None:
    old, new = Run("old"), Run("new", (Span(5_000.0, 6_000.0),), LATER)
    found = of(5_500.0, old, new)  # a key that is only added to W&B's record, after init, say
    assert (found.run_id, found.code, found.candidates) == (None, AMBIGUOUS, ("new", "old"))
    assert "another one than the file's time says" in found.evidence
    assert of(1_500.0, old, new).run_id == "old"


def test_every_configuration_of_ckptman_s_own_can_be_attributed() -> None:
    config = TrainConfig().to_dict()
    assert of(1_500.0, Run("mine", config=config), config=config).run_id == "mine"


def test_no_candidates_at_all() -> None:
    assert of(1_500.0) == Attribution(None, NONE, "none of 0 W&B runs has this config and seed", (), None)


# --- By the time ----------------------------------------------------------------------------------------------------

FIRST, RERUN = Run("first", (Span(1_000.0, 2_000.0),)), Run("rerun", (Span(5_000.0, 6_000.0),))


@pytest.mark.parametrize(
    ("saved_at", "run_id"),
    [
        (999.0, None),
        (1_000.0, "first"),
        (1_500.0, "first"),
        (2_000.0 + END_TOLERANCE_SECONDS, "first"),
        (2_000.0 + END_TOLERANCE_SECONDS + 1, None),
        (4_999.0, None),
        (5_000.0, "rerun"),
        (6_001.0, "rerun"),
        (1e9, None),
    ],
)
def test_of_several_the_one_that_ran_when_the_file_was_saved(saved_at: float, run_id: str | None) -> None:
    result = of(saved_at, FIRST, RERUN)
    assert result.run_id == run_id
    assert result.candidates == ("first", "rerun")
    if run_id:
        assert (result.code, result.in_span) == (TIME_SPAN, True)
        assert (
            result.evidence == "2 runs have this config and seed; the file was saved in the time span of this one only"
        )
    else:
        assert (result.code, result.in_span) == (AMBIGUOUS, None)
        assert (
            result.evidence == "2 runs have this config and seed, and the file's time lies in none of their time spans"
        )


def test_runs_at_the_same_time_stay_ambiguous() -> None:
    beside = Run("beside", (Span(1_400.0, 2_400.0),))
    assert of(1_200.0, FIRST, beside).run_id == "first"
    both = of(1_500.0, FIRST, beside)
    assert (both.run_id, both.code, both.candidates) == (None, AMBIGUOUS, ("beside", "first"))
    assert both.evidence.endswith("the file's time lies in the time spans of 2 of them")


def test_a_file_saved_just_after_one_run_while_the_next_runs_stays_ambiguous() -> None:
    following = Run("following", (Span(2_005.0, 3_000.0),))
    assert of(2_004.0, FIRST, following).run_id == "first"
    assert of(2_006.0, FIRST, following).code == AMBIGUOUS
    assert of(2_500.0, FIRST, following).run_id == "following"


def test_without_a_time_several_stay_ambiguous() -> None:
    result = of(None, FIRST, RERUN)
    assert (result.code, result.candidates) == (AMBIGUOUS, ("first", "rerun"))
    assert result.evidence == "2 runs have this config and seed, and the file's time is not known"


@pytest.mark.parametrize("span", [Span(None, None), Span(None, 5_000.0), Span(400.0, None)])
def test_a_run_whose_time_is_not_known_cannot_be_ruled_out(span: Span) -> None:
    assert of(1_500.0, FIRST).run_id == "first"
    result = (
        of(1_500.0, FIRST, Run("unknown", (span,)))
        if span != Span(400.0, None)
        else of(900.0, Run("unknown", (span,)), FIRST)
    )
    assert result.code == AMBIGUOUS
    assert "1 of them is not known" in result.evidence


@pytest.mark.parametrize("span", [Span(None, 500.0), Span(1_501.0, None), Span(400.0, None)])
def test_a_run_whose_time_is_half_known_can_be_ruled_out(span: Span) -> None:
    # It had ended, had not begun, or was killed before it logged anything and then begun again.
    assert of(1_500.0, FIRST, Run("other", (span,))).run_id == "first"


def test_a_killed_run_and_its_rerun() -> None:
    killed = Run("killed", (Span(1_000.0, None),))
    assert of(5_500.0, killed, RERUN).run_id == "rerun"
    assert of(3_000.0, killed, RERUN).code == AMBIGUOUS  # nothing is known of its end, so this is no proof
    later = Run("later", (Span(7_000.0, None),))
    assert of(5_500.0, later, RERUN).run_id == "rerun"
    assert of(1e9, later, RERUN).code == AMBIGUOUS  # the files were copied: not a proof that the killed run wrote them


def test_a_killed_run_went_on_for_longer_than_its_record() -> None:
    ended, killed = Run("first", (Span(1_000.0, 2_000.0),)), Run("first", (Span(1_000.0, 2_000.0, over=False),))
    other = Run("other", (Span(2_500.0, 3_500.0),))
    assert of(3_000.0, ended, other).run_id == "other"
    assert of(3_000.0, killed, other).run_id == "other"  # the other began, so the killed one was over
    assert of(2_400.0, ended, other).evidence.endswith("in none of their time spans")
    assert of(2_400.0, killed, other).evidence.endswith("the time span of 1 of them is not known")
    assert of(1_500.0, killed, other).run_id == "first"
    assert (of(2_400.0, ended).in_span, of(2_400.0, killed).in_span) == (False, None)


def test_a_long_run_has_a_longer_tolerance() -> None:
    long = Run("long", (Span(1.0, 100_001.0),))
    assert of(101_001.0, long, Run("other", (Span(200_000.0, 200_001.0),))).run_id == "long"
    assert of(101_002.0, long, Run("other", (Span(200_000.0, 200_001.0),))).code == AMBIGUOUS


def test_a_requeued_run_is_one_candidate() -> None:
    requeued = Run("requeued", (Span(1_000.0, 2_000.0), Span(5_000.0, 6_000.0)))
    other = Run("other", (Span(3_000.0, 4_000.0),))
    assert of(5_500.0, requeued, other).run_id == "requeued"
    assert of(3_500.0, requeued, other).run_id == "other"
    assert of(4_500.0, requeued, other).code == AMBIGUOUS
    # The same as two records of one id.
    parts = (Run("requeued", (Span(1_000.0, 2_000.0),)), Run("requeued", (Span(5_000.0, 6_000.0),)))
    assert of(5_500.0, *parts) == of(5_500.0, requeued)
    assert of(5_500.0, *parts, other).run_id == "requeued"


def test_a_span_that_ends_before_it_begins_fits_nothing() -> None:
    assert in_spans(1_500.0, [Span(2_000.0, 1_000.0)]) is False
    assert in_spans(1_500.0, [Span(1_000.0, 2_000.0)]) is True


# --- A run id in the checkpoint -------------------------------------------------------------------------------------


def test_the_run_id_in_the_checkpoint_decides() -> None:
    result = of(5_500.0, FIRST, RERUN, run_id="first")
    assert result == Attribution("first", STORED, "the checkpoint holds this run id", ("first",), False)
    assert of(1_500.0, FIRST, RERUN, run_id="first").in_span is True


def test_a_stored_run_id_holds_without_its_record_and_against_it() -> None:
    missing = of(1_500.0, FIRST, run_id="gone")
    assert (missing.run_id, missing.code, missing.in_span) == ("gone", STORED, None)
    assert missing.evidence == "the checkpoint holds this run id; no W&B folder of the run was found"
    other = of(1_500.0, Run("mine", config={**CONFIG, "seed": 1, "n_layers": 9}), run_id="mine")
    assert other.run_id == "mine"
    assert other.evidence == "the checkpoint holds this run id; the run's W&B config differs in n_layers, seed"
