#!/usr/bin/env bash
# Runs the whole pipeline on scikit-learn's handwritten digits, distorted. It runs in a temporary work tree: params.yaml,
# the outputs and dvc.lock of this one do not change. Results go to the same tracking store.
set -euo pipefail
start=$SECONDS
# params.yaml may have been edited: reset the data source and the settings that depend on it to their defaults.
dvc exp run --temp \
  -S 'variants=[plain,stn,tuned]' \
  -S data.dataset=digits -S data.source=data/raw -S data.size=null -S data.channels=null \
  -S train.epochs=null -S train.batch_size=null -S train.lr=null -S train.flip=null -S train.shift=null \
  -S data.distortion.protocol=none -S data.distortion.rotation=90 -S 'data.distortion.scale=[0.3,1.0]' \
  -S data.distortion.shift=0.3 \
  -S prepare.validation=0.2 \
  -S tune.trials=16 -S tune.epochs=null -S tune.finalists=3 -S 'tune.final_seeds=[1000,1001]' \
  -S 'train.seeds=[0,1,2]'
echo
cat state/reports/digits/comparison.md
echo
echo "Done in $((SECONDS - start)) s. Report: $PWD/state/reports/digits/report.html"
echo
echo "Next:  make ui                    shows runs, pictures of θ and the registered model stn-digits in a browser"
echo "       make repro                 runs the pipeline on CIFAR-10 (make repro SOURCE=path for a local copy)"
echo "       make summary VARIANT=stn   prints the layers of the network"
