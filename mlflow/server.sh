#!/usr/bin/env bash
# MLflow's tracking server, registry and UI: by default on loopback, for a team with accounts (docs/server.md).
# All settings come from the environment, so that lists of processes show no secrets. Their defaults are on the right:
#   MLFLOW_HOST                     address to listen at; beyond loopback MLFLOW_AUTH    127.0.0.1
#                                   is required
#   MLFLOW_PORT                     port to listen at                                    5000
#   MLFLOW_WORKERS                  number of processes that answer requests             1
#   MLFLOW_STORE                    database of runs, registry and accounts              sqlite in state/ of this repository
#   MLFLOW_ARTIFACT_ROOT            folder or s3:// of new artifacts                     state/artifacts of this repository
#   MLFLOW_PUBLIC_URL               address of a proxy in front, as browsers and         none
#                                   clients use it: https://host or https://host/path
#   MLFLOW_ALLOWED_HOSTS            host names that clients may use, besides that of     MLflow's own: localhost and private networks
#                                   MLFLOW_PUBLIC_URL
#   MLFLOW_AUTH                     basic: accounts; none: everybody may write           none on loopback
# With accounts also:
#   MLFLOW_AUTH_ADMIN_USERNAME      first administrator                                  admin
#   MLFLOW_AUTH_ADMIN_PASSWORD      its password at the first start, 12 characters       required
#   MLFLOW_FLASK_SERVER_SECRET_KEY  signs the forms of the sign-up page                  required
#   MLFLOW_DEFAULT_PERMISSION       permission without a grant: READ, USE, EDIT,         READ
#                                   MANAGE, NO_PERMISSIONS
set -euo pipefail
set -f # a * in MLFLOW_ALLOWED_HOSTS is no file name

refuse() {
  echo "error: $1" >&2
  exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
host=${MLFLOW_HOST:-127.0.0.1}
port=${MLFLOW_PORT:-5000}
path=${root//%/%25} # as in pipelines/tracking/artifact_places.py
export MLFLOW_BACKEND_STORE_URI=${MLFLOW_STORE:-sqlite:///${path//\?/%3F}/state/mlflow.db}
hosts=${MLFLOW_ALLOWED_HOSTS:-}
prefix=
if [ -n "${MLFLOW_PUBLIC_URL:-}" ]; then
  [[ $MLFLOW_PUBLIC_URL =~ ^(https?://([A-Za-z0-9.-]+)(:[0-9]+)?)((/[A-Za-z0-9._~-]+)*)/?$ ]] ||
    refuse "MLFLOW_PUBLIC_URL: '$MLFLOW_PUBLIC_URL' given; must be http:// or https://, a host name, and optionally a port and a path"
  hosts=${hosts:-localhost,127.0.0.1},${BASH_REMATCH[2]}
  prefix=${BASH_REMATCH[4]}
  # The browser names this origin in each request that changes something, while the proxy connects to another address.
  export MLFLOW_SERVER_CORS_ALLOWED_ORIGINS=${MLFLOW_SERVER_CORS_ALLOWED_ORIGINS:+$MLFLOW_SERVER_CORS_ALLOWED_ORIGINS,}${BASH_REMATCH[1]}
fi
# MLflow compares the header Host with its port: a name alone would refuse every port but 80 and 443.
allowed=
for name in ${hosts//,/ }; do
  allowed+=${allowed:+,}$name
  case $name in *:* | *\**) ;; *) allowed+=,$name:* ;; esac
done
auth=()
case ${MLFLOW_AUTH:-} in
  basic)
    password=${MLFLOW_AUTH_ADMIN_PASSWORD:-}
    [ ${#password} -ge 12 ] ||
      refuse "MLFLOW_AUTH_ADMIN_PASSWORD: ${#password} characters given; the administrator's password must have at least 12"
    [ -n "${MLFLOW_FLASK_SERVER_SECRET_KEY:-}" ] ||
      refuse "MLFLOW_FLASK_SERVER_SECRET_KEY: not given; must be a long secret, such as the output of: openssl rand -hex 32"
    permission=${MLFLOW_DEFAULT_PERMISSION:-READ}
    case $permission in
      READ | USE | EDIT | MANAGE | NO_PERMISSIONS) ;;
      *) refuse "MLFLOW_DEFAULT_PERMISSION: '$permission' given; must be READ, USE, EDIT, MANAGE or NO_PERMISSIONS" ;;
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
  *) refuse "MLFLOW_AUTH: '$MLFLOW_AUTH' given; must be basic or none" ;;
esac
if (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then
  refuse "MLFLOW_PORT: $port given; another program listens there (on macOS, AirPlay takes 5000); try: make ui PORT=5050"
fi
mkdir -p state/artifacts state/server
if [ ${#auth[@]} -gt 0 ]; then
  # Without the cache, each request hashes the password. With several workers, an old password stays valid until the
  # cache expires. configparser needs % doubled.
  rm -f "$MLFLOW_AUTH_CONFIG_PATH"
  (umask 077 && cat >"$MLFLOW_AUTH_CONFIG_PATH") <<EOF
[mlflow]
database_uri = ${MLFLOW_BACKEND_STORE_URI//%/%%}
default_permission = $permission
auth_cache_ttl_seconds = 60
EOF
fi
# The job runner serves MLflow's language-model tools; without it the server starts in 5 s instead of 35 s.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=${MLFLOW_SERVER_ENABLE_JOB_EXECUTION:-false}
# Without workflowType, MLflow opens its pages for language models.
address=${MLFLOW_PUBLIC_URL:-http://$host:$port}
echo "MLflow on ${address%/}/#/experiments?workflowType=machine_learning"
exec mlflow server --host "$host" --port "$port" --workers "${MLFLOW_WORKERS:-1}" "${auth[@]}" \
  --serve-artifacts --artifacts-destination "${MLFLOW_ARTIFACT_ROOT:-$root/state/artifacts}" \
  ${allowed:+--allowed-hosts "$allowed"} ${prefix:+--static-prefix "$prefix"}
