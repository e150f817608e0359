#!/bin/bash
#SBATCH --job-name=eagle-hf-data
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
# A data run on a Ray cluster within a Slurm allocation. A worker whose node dies is replaced.
#
# Needs:  output_dir of the configuration on storage that all nodes see, and eagle_hf[cluster] in the
#         environment of the job.
# Run:    sbatch recipes/cluster/data_ray_slurm.sh recipes/configs/data-smollm2.yaml [flags]
# Again:  the same command. What is finished is not computed again.
set -euo pipefail

config=${1:?usage: sbatch data_ray_slurm.sh CONFIG.yaml [flags of eagle-hf data]}
shift
port=6379
# Whoever reaches a Ray cluster can run anything there. The nodes of this job share a token.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# 1) The head on the first node, then every other node. They end with the job.
srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="$port" --include-dashboard=false --disable-usage-stats --block &
sleep 20
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) \
        --exclude="$head" ray start --address="$head:$port" --disable-usage-stats --block &
    sleep 20
fi

# 2) The run, by the head's client port.
eagle-hf data --config "$config" --executor "ray://$head:10001" "$@"
