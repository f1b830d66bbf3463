"""How the files of a tree are loaded: code for each form of them that is here. All Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from ckptman.formats import CheckpointInfo, architecture, read_checkpoint
from ckptman.rules import recipe, terms
from ckptman.text import RefusedError, markdown
from ckptman.tree import statistics as tree_statistics

_MOST_READ = 40
"""Files whose headers are read to tell their forms."""

_OF_VARIANTS = {"q_norm", "k_norm", "c_gate"}
"""Parts of models that the documented code does not make."""

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


def forms_here(
    statistics: tree_statistics.TreeStatistics,
) -> dict[str, tuple[str, CheckpointInfo]]:
    """A file of each form, by its name: its path, and what its header says. Of each sort of run one file is read."""
    found: dict[str, tuple[str, CheckpointInfo]] = {}
    for path in _sample(statistics):
        try:
            info = read_checkpoint(statistics.inventory.scan.root / path, statistics.convention.checkpoint)
        except RefusedError:
            continue
        found.setdefault(info.form, (path, info))
    return {
        form.name: found.pop(form.name) for form in statistics.convention.checkpoint.forms if form.name in found
    } | found


def _sample(statistics: tree_statistics.TreeStatistics) -> Iterator[str]:
    """The first file of each set of configuration keys, final or not."""
    seen: set[object] = set()
    for run in statistics.runs:
        for file in reversed(run.files):
            sort = frozenset(run.config), file.kind, run.is_recorded, run.alike.config_source
            if sort not in seen and len(seen) < _MOST_READ and str(file.path).isprintable():
                seen.add(sort)
                yield str(file.path)


def loading_text(statistics: tree_statistics.TreeStatistics) -> str:
    """Code that loads a file of each form."""
    forms = forms_here(statistics)
    parts = ["With the Python package `ckptman`, by paths from this folder:"] if forms else []
    for name, (path, info) in forms.items():
        title = f"A file of form {markdown.text(name)}:" if len(forms) > 1 else ""
        parts += [title, markdown.fenced("python", _code(path, info, statistics))]
        form = next((form for form in statistics.convention.checkpoint.forms if form.name == name), None)
        if form is not None and _is_documented(form, info, path, statistics):
            text = _DOCUMENTED.format(path=path, config=form.config, model=recipe.MODEL_CODE, weights=form.weights)
            parts += ["The same step by step:", markdown.fenced("python", text)]
    return markdown.join(*parts) or "There is no checkpoint here yet that can be loaded."


def _code(path: str, info: CheckpointInfo, statistics: tree_statistics.TreeStatistics) -> str:
    is_built_in = _is_built_in(path, info, statistics)
    call = "model, info = ckptman.load" if is_built_in else "weights, info = ckptman.load_weights"
    return f"import ckptman\n\n{call}({path!r})\n"


def _is_built_in(path: str, info: CheckpointInfo, statistics: tree_statistics.TreeStatistics) -> bool:
    try:
        architecture.model_config(info, path, statistics.convention)
    except RefusedError:
        return False
    return True


def _is_documented(
    form: terms.CheckpointForm, info: CheckpointInfo, path: str, statistics: tree_statistics.TreeStatistics
) -> bool:
    """Whether the documented code is for such a file: a `TrainConfig` under the form's own key, and no variant."""
    if not form.config or info.compiled or not (info.config_class or "").endswith("TrainConfig"):
        return False
    parts = {part for tensor in info.tensors for part in tensor.name.split(".")}
    is_variant = parts & _OF_VARIANTS or (info.config or {}).get("norm_type") == recipe.RMS_NORM
    return not is_variant and _is_built_in(path, info, statistics)
