"""What weights testify: which seed drew them, which files are of one run, whether they were trained at all.

Training moves a weight matrix, but does not turn it far: after 40,000 iterations of the published recipe the first
attention matrix still has a cosine of 0.56 with its initialization. The cosine with any other random matrix of d
elements is normal around 0 with variance 1/d, whatever the weights are. So the p-value of the best of many seeds, times
the number of seeds and initializations tried (Bonferroni), says how sure it is.
"""

from __future__ import annotations

import math
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ckptman.formats import CheckpointInfo
from ckptman.rules import Convention, convention_file
from ckptman.text import RefusedError, UsageError, given_path
from ckptman.training.evaluation import RefusedFile, find_checkpoints
from ckptman.training.loading import LM_HEAD, WPE, WTE, load_weights
from ckptman.tree import records

TESTED: Final = "transformer.h.0.attn.c_attn.weight"
"""The matrix that testifies: every variant has it, and it is the first that is drawn after the embeddings."""

NORMAL, XAVIER = "normal", "xavier"

SURE: Final = 1e-6
"""A seed is named where chance would name one less often than this, and two files are of one run likewise."""

SAME_RUN: Final = 0.97
"""Cosine of what training did to two files, above which they are of one run. Measured: 0.997 between 20,001 and 40,000
iterations of the published recipe, and 0.991 between the middle and the end of 600 iterations; 0.000 between two seeds,
and at most 0.92 between runs of one seed on other lengths. A repetition of a run cannot be told from it."""

SAME_RUN_UNTOLD: Final = 0.99
"""The same for the whole matrices, where the seed is not known: 0.998 within a run, 0.003 between two."""

_EQUAL: Final = 1 - 2e-6
"""Cosine of equal matrices, one of which was rounded to bfloat16 (0.7e-6 less than 1)."""
_UNMOVED: Final = 2e-3
"""Length of what training did to a matrix of length 1, up to which it did nothing: bfloat16 rounds by 1.2e-3."""

_TELLING: Final = 4096
"""Elements of a matrix from which on two that are not alike are of two runs: of fewer, long training can leave nothing
that is more than chance."""

_STATES: Final = 2**32
"""Seeds that differ by a multiple of it draw the same numbers, as torch's generator takes so many bits of them."""

_CHUNK: Final = 32
"""Seeds drawn before their cosines are computed together."""

_VECTOR: Final = 16
"""Elements that torch draws at once from a normal distribution; of a smaller tensor, it draws each by itself."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Testimony:
    """What the weights of one file say. None where they do not say it."""

    path: str
    seed: int | None = None
    """The seed that drew them."""
    p_value: float | None = None
    """How often chance alone would point to any of the tested seeds as clearly."""
    cosine: float | None = None
    """With that seed's initialization."""
    trained: bool | None = None
    """False for weights as they were initialized."""
    initialization: str | None = None
    """`normal` or `xavier`."""
    same_run_as: tuple[str, ...] = ()
    """The other files that are of the same run."""
    unlike: tuple[str, ...] = ()
    """The other files that are certainly of other runs."""
    mixed: tuple[int, ...] = ()
    """Seeds each of which has a part in the weights, as in an average of runs; then `seed` is None."""
    problem: str | None = None
    """What is wrong with the weights: `not-finite` or `constant`."""
    tensor: str | None = None
    """The weight that has the problem."""

    def to_json(self) -> dict[str, Any]:
        """The testimony as a JSON object."""
        return {
            "path": self.path,
            "seed": self.seed,
            "p_value": self.p_value,
            "cosine": self.cosine,
            "trained": self.trained,
            "initialization": self.initialization,
            "same_run_as": list(self.same_run_as),
            "mixed": list(self.mixed),
            "problem": self.problem,
            "tensor": self.tensor,
        }


@dataclass(frozen=True)
class WitnessResult:
    """What `witness` found."""

    files: tuple[Testimony, ...]
    seeds: int
    """How many were tried."""
    refused: tuple[RefusedFile, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document of `ckptman witness --json`."""
        return {
            "schema_version": records.SCHEMA_VERSION,
            "seeds": self.seeds,
            "files": [item.to_json() for item in self.files],
            "refused": [item.to_json() for item in self.refused],
        }


def witness(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    seeds: Iterable[int] | None = None,
    convention: Convention | None = None,
    progress: Progress | None = None,
) -> WitnessResult:
    """Ask weights which seed drew them, which files are of one run, and whether they were trained.

    Names and configurations are not looked at. Both initializations of the lab's trainer are known (normal and Xavier,
    drawn from PyTorch's global generator after `torch.manual_seed`), and that of `ckptman train`.

    Args:
        paths: Checkpoint files, and folders, of which all checkpoints are taken.
        seeds: The seeds to try; by default those of the convention's grids.
        convention: The rules to read the files by; by default those of the nearest ckptman.yaml in or above the first
            path, or the built-in ones.
        progress: Called with the number of draws done and in all.

    Raises:
        UsageError: a path does not exist, a folder has no checkpoints, or a seed is none.
    """
    named = [given_path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    rules = convention_file.rules_for(convention, named[0] if named else Path.cwd())
    tried = sorted(set(seeds) if seeds is not None else {s for grid in rules.grids.values() for s in grid.seeds})
    if not tried or tried[0] < 0 or tried[-1] >= 2**63:
        raise UsageError(
            "seeds are whole numbers from 0 up", code="bad-seeds", fix="Write, for example: --seeds 0-9999"
        )
    files, refused = find_checkpoints(named, rules, all_checkpoints=True)
    witnesses = []
    for file in files:
        try:
            witnesses.append(_Witness.of(str(file), *load_weights(file, convention=rules)))
        except RefusedError as error:
            refused.append(RefusedFile(str(file), error.code, error.message, error.fix))
    found = {item.path: item.testimony for item in witnesses}
    groups: dict[tuple[_Draws, ...], list[_Witness]] = defaultdict(list)
    for item in witnesses:
        if item.draws:
            groups[item.draws].append(item)
    count = _Counter(progress, len(tried) * sum(map(len, groups)))
    for draws, members in groups.items():
        best = _best(draws, members, tried, count)
        found |= {item.path: item for item in _judged(members, best, 2 * len(tried) * len(draws))}
    return WitnessResult(tuple(found.values()), len(tried), tuple(refused))


# --- one file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Draws:
    """How a trainer gets to the numbers of the tested matrix: how many it throws away, then a distribution."""

    initialization: str
    before: int
    """Numbers drawn from the generator before."""
    size: int

    def matrix(self, seed: int) -> Tensor:
        """The matrix that a seed gives, flat, with a norm of 1."""
        generator = torch.Generator().manual_seed(seed)
        torch.empty(self.before).uniform_(generator=generator)
        drawn = torch.empty(self.size)
        if self.initialization == NORMAL:
            drawn.normal_(generator=generator)
        else:
            drawn.uniform_(-1, 1, generator=generator)
        return torch.nn.functional.normalize(drawn, dim=0)


@dataclass(frozen=True)
class _Witness:
    """One file: what is known of it so far, and its tested matrix."""

    testimony: Testimony
    draws: tuple[_Draws, ...] = ()
    matrix: Tensor = field(default_factory=lambda: torch.empty(0))
    """Flat, with a norm of 1; where it cannot be tested, empty as `draws` are."""
    step: int | None = None

    @property
    def path(self) -> str:
        return self.testimony.path

    @classmethod
    def of(cls, path: str, weights: Mapping[str, Tensor], info: CheckpointInfo) -> _Witness:
        matrices = {name: weight.float() for name, weight in weights.items() if weight.dim() == 2}
        problem, tensor = _problem(weights, matrices)
        if problem is not None:
            return cls(Testimony(path, problem=problem, tensor=tensor))
        testimony = Testimony(path, trained=_trained(weights))
        if not {TESTED, WTE, WPE} <= matrices.keys() or min(map(Tensor.numel, matrices.values())) < _VECTOR:
            return cls(testimony)
        matrix = matrices[TESTED].flatten()
        return cls(testimony, _known_draws(weights, matrices), matrix / matrix.norm(), info.iters_done)


def _problem(weights: Mapping[str, Tensor], matrices: Mapping[str, Tensor]) -> tuple[str | None, str | None]:
    """What no trained model has; a table of positions that is not used is all zeros."""
    for name, weight in weights.items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            return "not-finite", name
    for name, weight in matrices.items():
        if name != WPE and weight.numel() > 1 and bool((weight == weight.flatten()[0]).all()):
            return "constant", name
    return None, None


def _trained(weights: Mapping[str, Tensor]) -> bool | None:
    """Whether biases and gains have left 0 and 1, where every initialization puts them; None without any."""
    vectors = {name: weight for name, weight in weights.items() if weight.dim() == 1 and weight.is_floating_point()}
    if not vectors:
        return None
    return not all(bool((weight == (0 if name.endswith("bias") else 1)).all()) for name, weight in vectors.items())


def _known_draws(weights: Mapping[str, Tensor], matrices: Mapping[str, Tensor]) -> tuple[_Draws, ...]:
    """The ways of the known trainers to the tested matrix, in a model of these weights.

    The lab's trainer builds PyTorch's modules, each of which draws its weights and biases, the output head's too; then
    it draws all matrices again, in the order of the modules. `ckptman train` draws each once.
    """
    size = {name: weight.numel() for name, weight in matrices.items()}
    size.setdefault(LM_HEAD, size[WTE])
    embeddings = _normals(size[WTE]) + _normals(size[WPE])
    linear = sum(
        count + (weights[bias].numel() if (bias := name.removesuffix("weight") + "bias") in weights else 0)
        for name, count in size.items()
        if name not in (WTE, WPE)
    )
    built = embeddings + linear
    return (
        _Draws(NORMAL, built + embeddings, size[TESTED]),
        _Draws(XAVIER, built + size[WTE] + size[WPE], size[TESTED]),
        _Draws(NORMAL, embeddings, size[TESTED]),
        _Draws(XAVIER, size[WTE] + size[WPE], size[TESTED]),
    )


def _normals(count: int) -> int:
    """Numbers that torch takes from its generator for a normal tensor: it draws the last 16 again where some remain."""
    return count + (_VECTOR if count % _VECTOR else 0)


# --- seeds ------------------------------------------------------------------------------------------------------------


class _Counter:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def add(self, draws: int) -> None:
        self._done += draws
        if self._progress is not None:
            self._progress(self._done, self._total)


@dataclass(frozen=True)
class _Match:
    """The seed whose initialization a file is closest to."""

    cosine: float
    seed: int
    draws: _Draws
    mixed: tuple[int, ...] = ()
    """All seeds that chance does not explain, where there are several."""


def _best(draws: Sequence[_Draws], members: Sequence[_Witness], seeds: Sequence[int], count: _Counter) -> list[_Match]:
    """The closest initialization of each file. Every seed is drawn once for all of them.

    Negated weights are closest to what they are the negation of: the numbers that a seed gives one distribution are not
    independent of those that it gives another (a cosine of -0.34), so that they would pass for these.
    """
    matrices = torch.stack([item.matrix for item in members])
    chunks = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    jobs = [(how, chunk) for how in draws for chunk in chunks]

    def cosines(job: tuple[_Draws, Sequence[int]]) -> Tensor:
        how, chunk = job
        return matrices @ torch.stack([how.matrix(seed) for seed in chunk]).T

    best: list[_Match | None] = [None] * len(members)
    sure: list[dict[int, int]] = [{} for _ in members]
    least = _least_cosine(draws[0].size, 2 * len(seeds) * len(draws))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for (how, chunk), found in zip(jobs, pool.map(cosines, jobs), strict=True):
            for index, place in (found.abs() > least).nonzero().tolist():
                sure[index].setdefault(chunk[place] % _STATES, chunk[place])
            for index, place in enumerate(found.abs().argmax(dim=1).tolist()):
                old, cosine = best[index], float(found[index, place])
                if old is None or abs(cosine) > abs(old.cosine):
                    best[index] = _Match(cosine, chunk[place], how)
            count.add(len(chunk))
    return [
        replace(match, mixed=tuple(sorted(held.values())) if len(held) > 1 else ())
        for match, held in zip(best, sure, strict=True)
        if match is not None
    ]


def _judged(members: Sequence[_Witness], best: Sequence[_Match], tests: int) -> Iterator[Testimony]:
    """What the files testify: seeds that are sure, and the runs that they make up."""
    known = []
    moved = torch.stack([item.matrix for item in members])
    alike = moved @ moved.T  # before what training did is told apart from where it began
    for index, (item, match) in enumerate(zip(members, best, strict=True)):
        p_value = _chance(match.cosine, match.draws.size, tests)
        if p_value >= SURE or match.mixed:
            known.append(replace(item, testimony=replace(item.testimony, mixed=match.mixed)))
            continue
        moved[index] -= match.cosine * match.draws.matrix(match.seed)
        trained = item.testimony.trained
        testimony = replace(
            item.testimony,
            seed=match.seed,
            p_value=p_value,
            cosine=match.cosine,
            initialization=match.draws.initialization,
            trained=bool(moved[index].norm() > _UNMOVED) if trained is None else trained,
        )
        known.append(replace(item, testimony=testimony, draws=(match.draws,)))
    moved = torch.nn.functional.normalize(moved)
    together = moved @ moved.T
    kin: dict[tuple[int, bool], list[str]] = defaultdict(list)
    for one, other in permutations(range(len(known)), 2):
        same = _same_run(known[one], known[other], float(alike[one, other]), float(together[one, other]))
        if same is not None:
            kin[one, same].append(known[other].path)
    for index, item in enumerate(known):
        yield replace(item.testimony, same_run_as=tuple(kin[index, True]), unlike=tuple(kin[index, False]))


def _same_run(one: _Witness, other: _Witness, alike: float, together: float) -> bool | None:
    """Whether two files are of one run; None where their weights do not say so.

    Args:
        alike: The cosine of their matrices.
        together: The cosine of what training did to them, or of the matrices where no seed is known.
    """
    first, second = one.testimony, other.testimony
    if alike > _EQUAL:
        return True if first.trained is not False else None  # untrained weights are those of every run of the seed
    if first.mixed or second.mixed:
        return None
    if first.seed is None or second.seed is None:
        size = one.draws[0].size
        if size >= _TELLING and _chance(abs(alike), size, 2) >= SURE:
            return False
        return True if alike > SAME_RUN_UNTOLD and first.seed == second.seed else None
    if (first.seed, one.draws) != (second.seed, other.draws):
        return False
    is_one_state = one.step is not None and one.step == other.step  # of an average of the run, or of a repetition
    return True if together > SAME_RUN and not is_one_state else None


def _least_cosine(size: int, tests: int) -> float:
    """The cosine above which chance does not explain one of so many random matrices."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _chance(middle, size, tests) < SURE else (middle, high)
    return high


def _chance(cosine: float, size: int, tests: int) -> float:
    """How often the best of so many random matrices has at least this cosine."""
    single = math.erfc(cosine * math.sqrt(size / 2)) / 2
    return min(1.0, max(single, sys.float_info.min) * tests)
