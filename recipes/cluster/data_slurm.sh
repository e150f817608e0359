#!/bin/bash
# A data run as a Slurm array: each task answers its share of the prompts, told by their ids.
#
# Needs:  OUTPUT_DIR of the configuration on storage that all nodes see, eagle_hf in the environment
#         of the jobs, and a GPU for each task (or `answers.servers`: then leave --gpus out).
# Run:    SHARDS=16 recipes/cluster/data_slurm.sh recipes/configs/data-smollm2.yaml [flags]
# Again:  the same command. What is finished is not computed again.
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: SHARDS=16 $0 CONFIG.yaml [flags of eagle-hf data]" >&2
    exit 2
fi
config=$1
shift
shards=${SHARDS:-16}
# For all jobs: partition, account, time.
read -r -a options <<<"${SBATCH_OPTIONS:-}"
run=$(printf '%q ' eagle-hf data --config "$config" "$@")

# 1) The prompts, once: selection and privacy must see all of them.
prompts=$(sbatch --parsable "${options[@]}" --job-name=prompts \
    --wrap="$run --only prompts privacy")

# 2) The answers, one task for each shard.
answers=$(sbatch --parsable "${options[@]}" --job-name=answers --gpus=1 --requeue \
    --array="0-$((shards - 1))" --dependency="afterok:$prompts" \
    --wrap="$run --shard \$SLURM_ARRAY_TASK_ID/\$SLURM_ARRAY_TASK_COUNT")

# 3) The rest, once all shards are there.
sbatch --parsable "${options[@]}" --job-name=merge --gpus=1 \
    --dependency="afterok:$answers" --wrap="$run --merge"
