#!/usr/bin/env bash
# The paper's whole method in a film world, with the commands that a user runs on films of their own.
#
#   recipes/film_world.sh [FOLDER]          default: runs/film_world; `make demo-train` does the same
#
# Run again after a kill, it goes on where it was. Another number of films: FILMS=1000 recipes/film_world.sh FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
RUN=${1:-runs/film_world} FILMS=${FILMS:-300}
mkdir -p "$RUN"
: > "$RUN/seconds.csv"

step() { # run a command, and keep what it took
  echo "→ $*"
  local start=$SECONDS
  "$@"
  echo "$((SECONDS - start)),$(basename "$1") ${*:2:2}" >> "$RUN/seconds.csv"
}

step python -m data_scripts.make_film_world --output "$RUN/world" --num-films "$FILMS" --film-seconds 120 --keyframes-only --workers 2
step python -m data_scripts.make_catalog --metadata "$RUN/world/metadata" --output "$RUN/movies"
step python -m data_scripts.extract_features --shots "$RUN/world/shots" --output "$RUN/shot_features"
step python -m data_scripts.similar_movies --movies "$RUN/movies" --sources synopsis --top-k 30 --output "$RUN/similar_movies"
step python -m train.train_mil train/configs/mil_film_world.yaml --features "$RUN/shot_features" --similar "$RUN/similar_movies" --output "$RUN/mil"
step python -m data_scripts.mine_scene_pairs --features "$RUN/shot_features" --similar "$RUN/similar_movies" --films "$RUN/mil/training_films.txt" --model "$RUN/mil/model" --space both --output "$RUN/scene_pairs"
step accelerate launch -m train.train_moco train/configs/moco_film_world.yaml --pairs "$RUN/scene_pairs" --shots "$RUN/world/shots" --output "$RUN/moco"
for row in "before --model m2s-clip-tiny" "after --model $RUN/moco/model" "free_rival --features $RUN/shot_features --shot-space whitened"; do
  step python -m eval.scene_retrieval ${row#* } --world "$RUN/world" --held-out "$RUN/mil/held_out_films.txt" --output "$RUN/${row%% *}.json"
done
step python -m eval.training_report --run "$RUN/moco" --shots "$RUN/world/shots" --pairs "$RUN/scene_pairs" --mil "$RUN/mil" --world "$RUN/world" --films "$RUN/mil/held_out_films.txt" --measured "$RUN/before.json" "$RUN/after.json" "$RUN/free_rival.json" --minutes "$RUN/seconds.csv" --output "$RUN/report.html"
