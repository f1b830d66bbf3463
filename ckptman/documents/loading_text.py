"""How the files of a tree are loaded: code for each form of them that is here. All Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from ckptman.formats import CheckpointInfo, architecture, containers, expected_weights
from ckptman.rules import convention_file, recipe, terms
from ckptman.text import RefusedError, markdown
from ckptman.tree import statistics as tree_statistics

_MOST_READ = 40
"""Files whose headers are read to tell their forms."""

_DOCUMENTED = """\
import torch
from ckptman import GPT, GPTConfig

# Load checkpoint
ckpt = torch.load({path!r}, map_location='cpu')

# Reconstruct model config
cfg = ckpt[{config!r}]
model_cfg = GPTConfig(
{model}
)

# Create and load model
model = GPT(model_cfg)
model.load_state_dict(ckpt[{weights!r}])
model.eval()
"""
"""How a file with a pickled configuration is loaded; what ckptman promises to keep working."""


def forms_here(statistics: tree_statistics.TreeStatistics) -> list[tuple[str, CheckpointInfo]]:
    """A checkpoint of each form in each container: its path, and what its header says. Of each sort of run one is
    read."""
    found: dict[tuple[str, str], tuple[str, CheckpointInfo]] = {}
    for path in _sample(statistics):
        try:
            info = containers.read(statistics.inventory.scan.root / path, statistics.convention.checkpoint)
        except RefusedError:
            continue
        found.setdefault((info.container, info.form), (path, info))
    forms = [form.name for form in statistics.convention.checkpoint.forms]
    return sorted(found.values(), key=lambda one: forms.index(one[1].form) if one[1].form in forms else len(forms))


def title_of(info: CheckpointInfo) -> str:
    """A form for the head of a table: `Form A`, with its container where that is no torch archive."""
    container = "" if info.container == containers.TORCH_ARCHIVE else f", {info.container}"
    return markdown.text(f"Form {info.form}{container}")


def _sample(statistics: tree_statistics.TreeStatistics) -> Iterator[str]:
    """The first file of each set of configuration keys, final or not, a folder or not; and the last of some runs."""
    seen: set[object] = set()
    every = max(1, len(statistics.runs) // _MOST_READ)
    for index, run in enumerate(statistics.runs):
        for at, file in enumerate(reversed(run.files)):
            sort = frozenset(run.config), file.kind, file.is_folder, run.is_recorded, run.alike.config_source
            is_first = sort not in seen and len(seen) < _MOST_READ
            if str(file.path).isprintable() and (is_first or (at == 0 and index % every == 0)):
                seen.add(sort)
                yield str(file.path)


def loading_text(statistics: tree_statistics.TreeStatistics) -> str:
    """Code that loads a file of each form."""
    forms = forms_here(statistics)
    parts = ["With the Python package `ckptman`, by paths from this folder:"] if forms else []
    for path, info in forms:
        title = f"{title_of(info)}:" if len(forms) > 1 else ""
        parts += [title, markdown.fenced("python", _code(path, info, statistics))]
        form = next((form for form in statistics.convention.checkpoint.forms if form.name == info.form), None)
        if form is not None and _is_documented(form, info, path, statistics):
            text = _DOCUMENTED.format(path=path, config=form.config, model=recipe.MODEL_CODE, weights=form.weights)
            parts += ["The same step by step:", markdown.fenced("python", text)]
    return markdown.join(*parts) or "There is no checkpoint here yet that can be loaded."


def _code(path: str, info: CheckpointInfo, statistics: tree_statistics.TreeStatistics) -> str:
    is_built_in = _is_built_in(path, info, statistics)
    call = "model, info = ckptman.load" if is_built_in else "weights, info = ckptman.load_weights"
    if convention_file.FILE_NAME not in statistics.top_files:
        return f"import ckptman\n\n{call}({path!r})\n"
    rules = f"rules = ckptman.load_convention({convention_file.FILE_NAME!r})"  # which may say how to read it
    return f"import ckptman\n\n{rules}\n{call}({path!r}, convention=rules)\n"


def _is_built_in(path: str, info: CheckpointInfo, statistics: tree_statistics.TreeStatistics) -> bool:
    try:
        architecture.model_config(info, path, statistics.convention)
    except RefusedError:
        return False
    return True


def _is_documented(
    form: terms.CheckpointForm, info: CheckpointInfo, path: str, statistics: tree_statistics.TreeStatistics
) -> bool:
    """Whether the documented code is for such a file: a `TrainConfig` under the form's own key, and beside it the very
    weights that the code makes of it."""
    if (
        info.container != containers.TORCH_ARCHIVE
        or not form.config
        or not (info.config_class or "").endswith("TrainConfig")
    ):
        return False
    config = info.config or {}
    made = recipe.Variant.of({recipe.NORM_SWITCH: config.get(recipe.NORM_SWITCH)})  # by the code, which knows no other
    expected = expected_weights(config, statistics.convention.model)
    return (
        recipe.Variant.of(config) == made
        and expected is not None
        and expected.shapes == {tensor.saved_as: tensor.shape for tensor in info.tensors}  # no prefixes, no masks
        and _is_built_in(path, info, statistics)
    )
