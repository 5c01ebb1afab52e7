"""Training of one variant: one worker in the driver's process, or several on Ray.

Importing this package sets environment variables of Ray, which reads them when it is imported, and of NCCL.
"""

import os

# By default, the controller polls its workers every 2 s, but a small network's epoch is shorter. The watcher for
# preemption and the export of metrics cost seconds at every start.
RAY_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # After the loss of a host, Ray still expects its room for up to 20 s, and waits this long before it tries again.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Under `uv run`, Ray would copy the whole folder, data included, for its workers, and refuse more than 512 MiB.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # with the default of 15, training would stall beside any other program
}
# NCCL then says in the log of a worker why it failed.
NCCL_ENVIRONMENT = {"NCCL_DEBUG": "WARN"}
for name, value in (RAY_ENVIRONMENT | NCCL_ENVIRONMENT).items():
    os.environ.setdefault(name, value)
