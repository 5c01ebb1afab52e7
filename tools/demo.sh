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
echo "Next:  make ui                    shows runs, pictures of θ and the registered model stn-digits in a browser"
echo "       make repro                 runs the pipeline on CIFAR-10 (make repro SOURCE=path for a local copy)"
echo "       make summary VARIANT=stn   prints the layers of the network"
