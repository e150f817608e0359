#!/bin/bash
#SBATCH --job-name=eagle-hf-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --requeue
# Training over nodes within a Slurm allocation.
#
# Run:    sbatch recipes/cluster/train_slurm.sh --config recipes/configs/smollm2_cpu.yaml [flags]
# Again:  Slurm itself does after a lost node (--requeue); it goes on from the newest checkpoint.
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RENDEZVOUS="$head:29500"
export NODES="1:$SLURM_JOB_NUM_NODES"
export RUN="$SLURM_JOB_ID"
srun --kill-on-bad-exit=0 recipes/cluster/train_node.sh "$@"
