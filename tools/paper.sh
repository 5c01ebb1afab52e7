#!/usr/bin/env bash
# Trains what is missing in the paper's table: the first seed of every network, then the second, then the third.
# ONLY selects stages (R, R-ST-CNN, R-CNN-0, addition, colocalization), MINUTES limits the time. SCHEDULE=long selects
# the trainings with the paper's own schedule.
set -euo pipefail
cd experiments/paper
case "${SCHEDULE:-short}" in
  short | long) ;;
  *) echo "error: SCHEDULE: '$SCHEDULE' given; short or long" >&2; exit 2 ;;
esac
stages=$(dvc stage list --name-only | awk '{
  only = ENVIRON["ONLY"]; name = $0; parts = split(name, part, "-")
  if ((ENVIRON["SCHEDULE"] == "long") != sub(/^long[@_]/, "", name)) next
  sub(/^train@/, "", name); sub(/@/, "-", name)
  if (!only || index(name "-", only "-") == 1) print part[parts] + 0, $0 }' | sort -s -n -k1,1 | cut -d' ' -f2-)
if [ -z "$stages" ]; then
  echo "error: ONLY: '${ONLY:-}' given; a distortion or addition, and a network: R, R-ST-CNN; or colocalization (not with SCHEDULE=long)" >&2
  exit 2
fi
limit=()
if [ -n "${MINUTES:-}" ]; then
  [[ $MINUTES =~ ^[0-9]+(\.[0-9]+)?$ ]] || { echo "error: MINUTES: '$MINUTES' given; a number of minutes" >&2; exit 2; }
  # The signal goes to all processes: DVC ignores it while a training runs.
  limit=(timeout --signal=INT "${MINUTES}m")
fi
status=0
# shellcheck disable=SC2086  # one word for each stage
"${limit[@]}" dvc repro $stages || status=$?
dvc repro --single-item code@table table
if [ "$status" -eq 124 ]; then
  echo "The $MINUTES minutes are over. The next make paper continues after the last epoch."
  exit 0
fi
exit "$status"
