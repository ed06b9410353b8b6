#!/usr/bin/env bash
# The whole method in a film world (synthetic films), with the commands that a user runs on their own films. Contrast is
# within the batch: the paper's queue of old keys (momentum contrast) needs more than these 100 steps.
#
#   recipes/film_world.sh [FOLDER]          into runs/film_world by default; `make demo-train` does the same
#   FILMS=1000 recipes/film_world.sh big    a larger world; STEPS=300 trains longer
#
# It goes on after a kill. The page FOLDER/report.html shows what came of it: mined pairs, curves, scenes before and after.
# Two x86 cores without a GPU take five to seven minutes, a third of them for contrast. Expected, on scenes of held-out
# films: the nearest scene of another film shows the same place for 24 % of the scenes before training and for 41 %
# after it, both in the whitened space. The mean of whitened shots, which needs no training, reaches 33 %, and that of
# 8×8 pixels 54 %: pixels find drawn places well (docs/film_world.md). Chance is 6 %, standard errors are 3
# (eval/results/film_world_recipe.json).
#
# The paper's rule mines in the learned space alone (--space model); `both` adds the frozen features, whitened (ours).
set -euo pipefail
cd "$(dirname "$0")/.."
RUN=${1:-runs/film_world} FILMS=${FILMS:-260} STEPS=${STEPS:-100}
mkdir -p "$RUN"
: > "$RUN/seconds.csv"

step() { # run a command, and keep its module and what it took
  echo "→ $*"
  local start=$SECONDS words="$*"
  "$@"
  words=${words#*-m }
  echo "$((SECONDS - start)),${words%% *}" >> "$RUN/seconds.csv"
}

held_out=(--world "$RUN/world" --held-out "$RUN/mil/held_out_films.txt" --num-training-scenes 300 --num-boundary-films 15)

step python -m data_scripts.make_film_world --output "$RUN/world" --num-films "$FILMS" --film-seconds 120 --keyframes-only --workers 2
step python -m data_scripts.make_catalog --metadata "$RUN/world/metadata" --output "$RUN/movies"
step python -m data_scripts.extract_features --shots "$RUN/world/shots" --output "$RUN/shot_features"
step python -m data_scripts.similar_movies --movies "$RUN/movies" --sources synopsis --top-k 30 --output "$RUN/similar_movies"
step python -m train.train_mil train/configs/mil_film_world.yaml --features "$RUN/shot_features" --similar "$RUN/similar_movies" --output "$RUN/mil"
step python -m data_scripts.mine_scene_pairs --features "$RUN/shot_features" --similar "$RUN/similar_movies" --films "$RUN/mil/training_films.txt" --space both --model "$RUN/mil/model" --output "$RUN/scene_pairs"
step accelerate launch -m train.train_moco train/configs/moco_film_world.yaml --max-steps "$STEPS" --pairs "$RUN/scene_pairs" --shots "$RUN/world/shots" --output "$RUN/moco"
step python -m eval.scene_retrieval --model m2s-clip-tiny "${held_out[@]}" --output "$RUN/before_training.json"
step python -m eval.scene_retrieval --model "$RUN/moco/model" "${held_out[@]}" --output "$RUN/after_training.json"
step python -m eval.scene_retrieval --features "$RUN/shot_features" --shot-space whitened "${held_out[@]}" --output "$RUN/mean_of_whitened_shots.json"
step python -m eval.pixel_features --shots "$RUN/world/shots" --output "$RUN/pixel_features"
step python -m eval.scene_retrieval --features "$RUN/pixel_features" --shot-space whitened "${held_out[@]}" --output "$RUN/mean_of_whitened_pixels.json"
step python -m eval.training_report --run "$RUN/moco" --shots "$RUN/world/shots" --pairs "$RUN/scene_pairs" --mil "$RUN/mil" --world "$RUN/world" --films "$RUN/mil/held_out_films.txt" --measured "$RUN"/{before_training,after_training,mean_of_whitened_shots,mean_of_whitened_pixels}.json --seconds "$RUN/seconds.csv" --output "$RUN/report.html"
