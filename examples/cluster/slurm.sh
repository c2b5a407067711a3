#!/bin/bash
# sbatch slurm.sh EXPERIMENT.yaml [options of bitcert run]
#
# One experiment file on one node. Shortly before the time limit the run stops by itself and the job goes back into the queue, where it
# goes on. On a file system that all nodes see: bitcert in $BITCERT_ENV, images in $BITCERT_DATA, and the folder it is submitted from.
#SBATCH --job-name=bitcert
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
experiment=${1:?name an experiment file: sbatch slurm.sh EXPERIMENT.yaml}
shift
if [[ -n "${BITCERT_ENV:-}" ]]; then
    source "$BITCERT_ENV/bin/activate"
fi
cd "${SLURM_SUBMIT_DIR:?this is a script for sbatch}"

status=0
srun bitcert run "$experiment" --slice "${BITCERT_SLICE:-3.8h}" "$@" || status=$?
if ((status == 3)); then # the slice is over, and the run is not
    scontrol requeue "$SLURM_JOB_ID"
    status=0
fi
exit "$status"
