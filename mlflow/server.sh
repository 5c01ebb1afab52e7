#!/usr/bin/env bash
# MLflow's tracking server, registry and UI. Everything comes from the environment:
#   MLFLOW_HOST           where to listen                     127.0.0.1
#   MLFLOW_PORT                                               5000
#   MLFLOW_STORE          database of runs and registry       sqlite in state/ of this repository
#   MLFLOW_ARTIFACT_ROOT  folder or s3:// of new artifacts    state/artifacts of this repository
#   MLFLOW_ALLOWED_HOSTS  Host names that may be asked for    MLflow's own: localhost and private networks
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
mkdir -p state/artifacts
host=${MLFLOW_HOST:-127.0.0.1}
port=${MLFLOW_PORT:-5000}
# The server's job runner is for MLflow's language-model tools; without it the server starts in 5 s instead of 35 s.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=${MLFLOW_SERVER_ENABLE_JOB_EXECUTION:-false}
echo "MLflow on http://$host:$port"
exec mlflow server --host "$host" --port "$port" --workers 1 \
  --backend-store-uri "${MLFLOW_STORE:-sqlite:///$root/state/mlflow.db}" \
  --artifacts-destination "${MLFLOW_ARTIFACT_ROOT:-$root/state/artifacts}" \
  ${MLFLOW_ALLOWED_HOSTS:+--allowed-hosts "$MLFLOW_ALLOWED_HOSTS"}
