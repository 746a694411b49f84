#!/usr/bin/env bash
# One node of a training on several: run the same line on each, in any order.
#
#   scripts/launch/torchrun.sh NODES HEAD:PORT [arguments of scripts/train.py fit]
#
# NODES is their number, HEAD:PORT a name and a free port of one of them that all can reach. Whatever
# train.py is told otherwise goes behind, for two nodes and a bucket:
#
#   scripts/launch/torchrun.sh 2 node0:29500 \
#       --config configs/ssdlite_s3_two_nodes.yaml --data.data_dir s3://bucket/voc07+12
#
# Environment: RANKS_PER_NODE (processes here; default: one a GPU, or one), MAX_RESTARTS (times that
# torchrun starts everything again after a failure; default 0), JOB (the same on all nodes, where
# HEAD:PORT serves several jobs), and torchrun's own PET_*. docs/guides/many-nodes.md says more.
set -euo pipefail

if [ $# -lt 2 ] || [[ ! $1 =~ ^[1-9][0-9]*$ ]] || [[ $2 != *:* ]]; then
    echo "usage: ${0##*/} NODES HEAD:PORT [arguments of scripts/train.py fit]" >&2
    exit 2
fi
nodes=$1 head=$2
shift 2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
gpus=$({ nvidia-smi --list-gpus 2>/dev/null || true; } | wc -l)
ranks=${RANKS_PER_NODE:-$((gpus > 0 ? gpus : 1))}

# Else restarted ranks find the addresses of those that died in the agents' store (torch 2.15).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

exec python -m torch.distributed.run \
    --nnodes="$nodes" --nproc-per-node="$ranks" --max-restarts="${MAX_RESTARTS:-0}" \
    --rdzv-backend=c10d --rdzv-endpoint="$head" --rdzv-id="${JOB:-voc-shards}" \
    "$root/scripts/train.py" fit "$@" \
    --trainer.num_nodes="$nodes" --trainer.devices="$ranks"
