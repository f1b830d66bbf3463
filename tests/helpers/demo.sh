#!/bin/sh
# The main job from nothing, for real: train short runs of two tasks, sort them, measure one, document and check them.
# Doing it again in the same folder trains nothing and places nothing.
#
#     sh tests/helpers/demo.sh FOLDER
set -eu
mkdir -p "$1"
cd "$1"

show() {
  printf '\n$ %s\n' "$*"
  "$@"
}

for task in 6 7; do
  show ckptman train --k 16 --task "$task" --seed 1337 --seed 2337 --seed 3337 \
    --iters 300 --batch-size 256 --lr 0.003 --warmup-iters 30 --curriculum-span 150 \
    --checkpoint-every 200 --eval-every 100 --threads 1 --wandb offline
done
show ckptman ingest grid_outputs
show ckptman eval checkpoints/with_layernorm/dynamic/len_gen_k16/task_0006/seed_1337 --threads 1
show ckptman report --html
# Two of the group's eight tasks are trained here: the others are missing on purpose.
show ckptman validate --ignore missing-task
show ckptman ls --final
printf '\nNow open %s in a browser, and read %s, which begins with pictures.\n' "$1/checkpoints/report/explorer.html" "$1/checkpoints/README.md"
