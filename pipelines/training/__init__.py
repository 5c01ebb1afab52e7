"""Training of one variant on Ray."""

import os

# Read when Ray is imported. The controller looks at its workers every 2 s by default, and an epoch of a small network
# takes less; watching for preemption and exporting metrics cost seconds at every start.
QUIET_AND_QUICK = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # 15 by default: beside any other program training would stand still
}
for name, value in QUIET_AND_QUICK.items():
    os.environ.setdefault(name, value)
