#!/usr/bin/env bash
# MLflow's tracking server, registry and UI: on loopback as it is, for a team with accounts. docs/server.md is about the
# latter. Everything comes from the environment, secrets too, so that no list of processes shows them:
#   MLFLOW_HOST                     where to listen; beyond loopback with accounts only  127.0.0.1
#   MLFLOW_PORT                                                                          5000
#   MLFLOW_WORKERS                  processes that answer requests                       1
#   MLFLOW_STORE                    database of runs, registry and accounts              sqlite in state/ of this repository
#   MLFLOW_ARTIFACT_ROOT            folder or s3:// of new artifacts                     state/artifacts of this repository
#   MLFLOW_ALLOWED_HOSTS            Host names that may be asked for                     MLflow's own: localhost and private networks
#   MLFLOW_AUTH                     basic: with accounts; none: open, whoever reaches it none on loopback
# with accounts also:
#   MLFLOW_AUTH_ADMIN_USERNAME      the first administrator                              admin
#   MLFLOW_AUTH_ADMIN_PASSWORD      its password at the first start, 12 characters       refuses to start without
#   MLFLOW_FLASK_SERVER_SECRET_KEY  signs the sign-up page's forms                       refuses to start without
#   MLFLOW_DEFAULT_PERMISSION       on what was not granted: READ, USE, EDIT, MANAGE,    READ
#                                   NO_PERMISSIONS
set -euo pipefail

refuse() {
  echo "error: $1" >&2
  exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
host=${MLFLOW_HOST:-127.0.0.1}
port=${MLFLOW_PORT:-5000}
export MLFLOW_BACKEND_STORE_URI=${MLFLOW_STORE:-sqlite:///$root/state/mlflow.db}
auth=()
case ${MLFLOW_AUTH:-} in
  basic)
    password=${MLFLOW_AUTH_ADMIN_PASSWORD:-}
    [ ${#password} -ge 12 ] ||
      refuse "MLFLOW_AUTH_ADMIN_PASSWORD: ${#password} characters given; the administrator's password has 12 or more"
    [ -n "${MLFLOW_FLASK_SERVER_SECRET_KEY:-}" ] ||
      refuse "MLFLOW_FLASK_SERVER_SECRET_KEY: not given; any long secret, such as that of: openssl rand -hex 32"
    permission=${MLFLOW_DEFAULT_PERMISSION:-READ}
    case $permission in
      READ | USE | EDIT | MANAGE | NO_PERMISSIONS) ;;
      *) refuse "MLFLOW_DEFAULT_PERMISSION: '$permission' given; READ, USE, EDIT, MANAGE or NO_PERMISSIONS" ;;
    esac
    export MLFLOW_AUTH_ADMIN_USERNAME=${MLFLOW_AUTH_ADMIN_USERNAME:-admin}
    export MLFLOW_AUTH_CONFIG_PATH=$root/state/server/$port.ini
    auth=(--app-name basic-auth)
    ;;
  none) ;;
  "")
    case $host in
      127.* | localhost | ::1) ;;
      *) refuse "MLFLOW_HOST: '$host' given; beyond loopback set MLFLOW_AUTH=basic, or MLFLOW_AUTH=none to let anybody write" ;;
    esac
    ;;
  *) refuse "MLFLOW_AUTH: '$MLFLOW_AUTH' given; basic or none" ;;
esac
mkdir -p state/artifacts state/server
if [ ${#auth[@]} -gt 0 ]; then
  # A password is hashed anew for each request but for the cache, whose other side is that, with several workers, a
  # password that was changed goes on being good for so long. The % is configparser's.
  rm -f "$MLFLOW_AUTH_CONFIG_PATH"
  (umask 077 && cat >"$MLFLOW_AUTH_CONFIG_PATH") <<EOF
[mlflow]
database_uri = ${MLFLOW_BACKEND_STORE_URI//%/%%}
default_permission = $permission
auth_cache_ttl_seconds = 60
EOF
fi
# The server's job runner is for MLflow's language-model tools; without it the server starts in 5 s instead of 35 s.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=${MLFLOW_SERVER_ENABLE_JOB_EXECUTION:-false}
# Without the last part MLflow opens on its pages for language models.
echo "MLflow on http://$host:$port/#/experiments?workflowType=machine_learning"
exec mlflow server --host "$host" --port "$port" --workers "${MLFLOW_WORKERS:-1}" "${auth[@]}" \
  --serve-artifacts --artifacts-destination "${MLFLOW_ARTIFACT_ROOT:-$root/state/artifacts}" \
  ${MLFLOW_ALLOWED_HOSTS:+--allowed-hosts "$MLFLOW_ALLOWED_HOSTS"}
