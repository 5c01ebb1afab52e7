#!/usr/bin/env bash
# Runs the whole pipeline on scikit-learn's handwritten digits, distorted, with the settings of experiments/demo.yaml.
set -euo pipefail
start=$SECONDS
python -m tools.experiment experiments/demo.yaml
echo
cat state/reports/digits/comparison.md
echo
echo "Done in $((SECONDS - start)) s. Report: $PWD/state/reports/digits/report.html"
echo
echo "Next:  make play MODEL=stn-digits   a page: move a digit, and see what the transformer makes of it"
echo "       make ui                      runs, pictures of θ and the registered model stn-digits in a browser"
echo "       make repro                   the pipeline on CIFAR-10 (make repro SOURCE=path for a local copy)"
echo "Also for this model: make predict MODEL=stn-digits IMAGES=photo.png; make promote MODEL=stn-digits"
