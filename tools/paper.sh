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
# One line for each seed, with its stages. Within one call of dvc repro, DVC chooses the order itself. The table is made
# at the end: it depends on all results, so that DVC would train the long schedule for it.
seeds=$(dvc stage list --name-only | awk '{
  only = ENVIRON["ONLY"]; name = $0; parts = split(name, part, "-")
  if ((ENVIRON["SCHEDULE"] == "long") != sub(/^long[@_]/, "", name)) next
  sub(/^train@/, "", name); sub(/@/, "-", name)
  if (name == "table" || only && index(name "-", only "-") != 1) next
  seed = name ~ /^colocalization/ ? 0 : part[parts] + 0  # 0 for stages without a seed
  stages[seed] = stages[seed] " " $0
  if (seed > last) last = seed
  } END { for (seed = 0; seed <= last; seed++) if (seed in stages) print stages[seed] }')
if [ -z "$seeds" ]; then
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
# shellcheck disable=SC2016  # expanded by the inner shell, one word for each stage
"${limit[@]}" bash -c 'while read -r stages; do dvc repro $stages < /dev/null || exit; done' <<< "$seeds" || status=$?
dvc repro --single-item code@table table
if [ "$status" -eq 124 ]; then
  echo "The $MINUTES minutes are over. The next make paper continues after the last epoch."
  exit 0
fi
exit "$status"
