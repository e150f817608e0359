#!/bin/bash
# One node of a training run over several: run it on each, with the same arguments.
#
# A node may die and come back. The others stop, agree anew on who is there, and all go on from the
# newest whole checkpoint. With fewer nodes the steps are the same and the batches smaller.
#
# Needs:  output_dir and the features or conversations on storage that all nodes see. The node that
#         RENDEZVOUS names must live: where it dies, start all of them again.
# Run:    RENDEZVOUS=node1:29500 NODES=1:4 recipes/cluster/train_node.sh \
#             --config recipes/configs/smollm2_cpu.yaml
#
# RENDEZVOUS   host:port of one of the nodes, the same on all
# NODES        how many there are, or fewest:most (default 1:2)
# PROCESSES    of each node: a number, gpu or cpu (default gpu)
# RESTARTS     of the workers before all is given up (default 10)
set -euo pipefail

# PyTorch 2.13's nodes share one store, and then never tell a node that comes back where it is.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

exec torchrun \
    --nnodes "${NODES:-1:2}" \
    --nproc-per-node "${PROCESSES:-gpu}" \
    --max-restarts "${RESTARTS:-10}" \
    --rdzv-backend c10d \
    --rdzv-endpoint "${RENDEZVOUS:?host:port of one of the nodes}" \
    --rdzv-id "${RUN:-eagle-hf}" \
    --rdzv-conf "last_call_timeout=${LAST_CALL:-30}" \
    recipes/train.py --resume_from_checkpoint auto "$@"
