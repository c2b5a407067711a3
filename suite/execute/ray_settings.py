"""Ray's settings, which it reads from the environment, most of them when it is imported."""

from __future__ import annotations

import os

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers without GPUs keep the environment; avoids a warning
    "RAY_AIR_NEW_OUTPUT": "0",  # the command line has its own progress bars
    "RAY_worker_niceness": "0",  # at Ray's 15, evaluations starve beside any other program
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no files for every trial
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # no snapshots of what the journals hold
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches bitcert
}


def apply_settings() -> None:
    """Set what the user has not set; to be called before Ray is imported."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
