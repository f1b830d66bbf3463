"""Every example of every --help, run as it stands in a folder where it makes sense, does what it says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ckptman.cli import commands
from ckptman.cli.app import app, run
from tests.helpers.raw import START, config, gen_metrics, write_run

ROOT = Path(__file__).parents[2]
COMMAND = f'"{sys.executable}" -m ckptman '

SAYS = {
    "ckptman train --k 8 --task 6 --seed 1337 --seed 2337": r"len_gen_k8 task 6 seed 2337 +new",
    "ckptman train --k 8,16 --task 0-3 --dry-run": r"len_gen_k16 task 3 seed 1337 +new",
    "ckptman train --k 4 --task 3 --fixed --quick --wandb disabled": r"len_gen_single_k4 task 3 seed 1337 +complete",
    "ckptman sweep --k 4-16:2 --regime fixed --dry-run": r"168 runs: 168 new",
    "ckptman sweep --k 8 --executor slurm --gpus 1 --time 1:00:00 --dry-run": r"#SBATCH.*1:00:00|72 runs",
    "ckptman ingest /scratch/grid_outputs --root checkpoints --dry-run": r"^nothing to place: ",
    "ckptman validate --root checkpoints --ignore missing-seed": r"errors?, .* × missing-task",
    "ckptman report --html": r"written +.*/report/explorer\.html",
    "ckptman status --k 8 --regime fixed": r"24 runs: .*24 missing",
    "ckptman status --k 8 --missing": r"^ckptman train --k 8 --task 0 --seed 1337 --set n_embd=8$",
    "ckptman ls --columns n_layers,seed,gen_em --format csv": r"^1,1337,0\.96",
    'ckptman ls --final --where "gen_em >= 0.95 and n_layers == 1" --sort -gen_em': r"1337 +Final .*96\.0 %",
    "ckptman results --no-mlp --layers 1": r"len_gen_k8 +8 +6 +1 +false +mix +0\.9800",
    "ckptman results --metric gen/K32/exact_match_acc --by n_layers,use_mlp": r"1 +false +0\.9800",
    "ckptman results --threshold 0.95": r"1 +false +mix +8 +8",
    "ckptman results --all-runs --population": r"deviation of the population",
    "ckptman results --versus use_mlp": r"1 +mix +0\.9800 +0\.5000 +-0\.4800",
    "ckptman plot generalization --no-mlp": r"^generalization\.svg: ",
    "ckptman plot curves --k 8 -o curves.png": r"^curves\.png: ",
    "ckptman show checkpoints/*/*/len_gen_k8/task_0006/*/Final_*.pt": r"belongs at +with_layernorm/dynamic/len_gen_k8/",
    "ckptman eval checkpoints --k 17-32 --samples 2000": r"mean over K = 17\.\.32: .*recorded in run\.json",
    "ckptman export saved_models/*.pt --to safetensors --out exported": r"^exported/Final_.*\.safetensors: ",
    "ckptman witness saved_models/*.pt --seeds 0-9999": r"10,000 seeds tried",
    "ckptman name checkpoints/*/*/*/*/*/*.pt --json": r'"train_max_k": 8',
    "ckptman name --format --layers 1 --no-mlp --k 8 --mode mix": r"^Final_N128_d128_.*_lenmix_trainK2to8_",
    "ckptman task 6 --k 8": r"with_layernorm/dynamic/len_gen_k8/task_0006",
    "ckptman task --layers 1 --no-mlp --mode mix": r"^6$",
    "ckptman learn /scratch/outputs --write ckptman.yaml": r"100\.0 % +placed in the tree",
    "ckptman migrate checkpoints --dry-run": r"3 runs: all as the convention says",
    "ckptman assign checkpoints/*/*/len_gen_k8/task_0006/seed_1337 --run 8egevwm5": r"of run 8egevwm5, seed 1337",
    "ckptman config": r"^mode +copy +the default",
    "ckptman doctor checkpoints": r"^ok +Python ",
}
"""Each example, and what is printed when it does what it says."""

LONG = {
    "ckptman train --k 8 --task 6 --seed 1337 --seed 2337": "it is interrupted: it would train for hours",
    "ckptman train --k 4 --task 3 --fixed --quick --wandb disabled": "a minute",
    "ckptman witness saved_models/*.pt --seeds 0-9999": "ten thousand initializations",
}


def examples() -> list[str]:
    """The examples of all commands, as their help has them."""
    commands.register()
    texts = (text for info in app.registered_commands for text in (info.callback.__doc__ or "").split("\n\n"))
    return [" ".join(text.split()).removeprefix("Example: ") for text in texts if text.strip().startswith("Example: ")]


def test_each_example_is_known() -> None:
    assert list(SAYS) == sorted(examples(), key=list(SAYS).index)
    assert len(examples()) >= len(commands.COMMANDS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw outputs below `scratch`, a tree, and one run's own checkpoints."""
    folder = tmp_path_factory.mktemp("home")
    runs = [(6, 1337, {}, 0.96), (6, 2337, {}, 1.0), (4, 1337, {"use_mlp": True}, 0.5)]
    for index, (task, seed, more, value) in enumerate(runs):
        values = config(8, **{"n_layers": 1, "use_mlp": False, "seed": seed, **more})
        place = folder / "scratch" / "grid_outputs" / "len_gen_k8" / f"task_{task:04d}" / f"seed_{seed}"
        curve = {step: gen_metrics(value * step / 40_000) | {"iter": step} for step in (250, 39_750)}
        write_run(place, values, run_id=f"8egevwm{index}", started=START + 1000 * index, metrics=gen_metrics(value),
                  curve=curve)  # fmt: skip
    shutil.copytree(folder / "scratch" / "grid_outputs", folder / "scratch" / "outputs", symlinks=True)
    shutil.copytree(place / "saved_models", folder / "saved_models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["ingest", "scratch/grid_outputs", "--root", "checkpoints"]) == 0
    return folder


def pasted(example: str, home: Path, tmp_path: Path, *, interrupted: bool = False) -> tuple[int, str]:
    """The exit status of an example in a copy of the folder, in a shell, and what was printed."""
    here = tmp_path / "home"
    shutil.copytree(home, here, symlinks=True)
    line = example.replace("ckptman ", COMMAND, 1).replace(" /scratch/", f" {here}/scratch/")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "CKPTMAN_CACHE": "off"}
    with subprocess.Popen(
        ["bash", "-c", line], cwd=here, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        if interrupted:
            status = here / "grid_outputs/len_gen_k8/task_0006/seed_1337/status.json"
            until = time.monotonic() + 120
            while not status.exists() and time.monotonic() < until:
                time.sleep(0.1)
            time.sleep(1)
            os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=600)
    return process.returncode, said


def check(example: str, home: Path, tmp_path: Path) -> str:
    code, said = pasted(example, home, tmp_path)
    assert code in (0, 1), said
    assert "ERROR" not in said
    assert re.search(SAYS[example], said, re.MULTILINE), said
    return said


@pytest.mark.parametrize("example", [example for example in SAYS if example not in LONG])
def test_an_example_does_what_it_says(example: str, home: Path, tmp_path: Path) -> None:
    check(example, home, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("example", list(LONG)[1:])
def test_a_long_example_does_what_it_says(example: str, home: Path, tmp_path: Path) -> None:
    check(example, home, tmp_path)


@pytest.mark.slow
def test_the_training_of_the_first_example_begins_and_can_be_interrupted(home: Path, tmp_path: Path) -> None:
    example = next(iter(LONG))
    code, said = pasted(example, home, tmp_path, interrupted=True)
    assert code == 130, said
    assert re.search(SAYS[example], said), said
    assert said.count("interrupted at") == 1, said
    assert "goes on from where it was" in said
