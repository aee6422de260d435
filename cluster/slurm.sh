#!/usr/bin/env bash
# One Ray cluster per SLURM allocation, and one search on it. What follows is given to `orchestrate`:
#   sbatch --nodes=4 cluster/slurm.sh pas --config kinetics-slowfast --data csv:/shared/k400 --runs /shared/runs
# The head and the driver run on the first node. The store must be on shared storage: two minutes before the time limit,
# or when it is preempted, the search stops, the job goes back into the queue, and the same command goes on from there.
#
# Settings, from the environment of sbatch:
#   ORCHESTRATE_HOME   the checkout with its .venv, on shared storage [default: where sbatch was called]
#   ORCHESTRATE_IP     address of the first node that the others reach [default: its first one]
#
#SBATCH --job-name=orchestrate
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --output=orchestrate-%j.log
set -euo pipefail

: "${SLURM_JOB_ID:?is not set; submit this script: sbatch cluster/slurm.sh pas ...}"
[ "$#" -gt 0 ] || { echo "slurm.sh: give it a command of orchestrate: sbatch cluster/slurm.sh pas ..." >&2; exit 2; }

home=${ORCHESTRATE_HOME:-$SLURM_SUBMIT_DIR}
export PATH="$home/.venv/bin:$PATH"
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token

# Ports by the job's number, so that a Ray that another job left behind is not met: above those of Ray's workers (up to
# 19999), below those that Linux gives away (from 32768).
first_port=$((20000 + SLURM_JOB_ID % 500 * 20))
ip=${ORCHESTRATE_IP:-$(hostname -I | cut -d ' ' -f 1)}
address=$ip:$first_port
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first_node=${nodes%%$'\n'*}

# A token per job, readable to its user alone, on the home folder that nodes share; every step inherits where it is.
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/slurm-$SLURM_JOB_ID.token"
(umask 077 && mkdir -p "$HOME/.ray" && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH")

driver="" told_to_stop="" signals=0
steps=()

# shellcheck disable=SC2329  # the traps call these
clean_up() {
  [ "${#steps[@]}" -eq 0 ] || kill -TERM "${steps[@]}" 2>/dev/null || true
  wait
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap clean_up EXIT

# shellcheck disable=SC2329
stop() {
  told_to_stop=yes
  signals=$((signals + 1))
  [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || true
}
trap stop TERM

# Ray on one or more nodes, until the allocation ends; /tmp/ray may be another user's.
ray_on() {
  srun --overlap --ntasks-per-node=1 "$@" --temp-dir="/tmp/ray-$(id -u)" --block &
  steps+=("$!")
}

ray_on --nodes=1 --ntasks=1 --nodelist="$first_node" ray start --head \
  --node-ip-address="$ip" --port="$first_port" --dashboard-host=127.0.0.1 --dashboard-port="$((first_port + 1))" \
  --ray-client-server-port="$((first_port + 2))" --dashboard-agent-listen-port="$((first_port + 3))" \
  --metrics-export-port="$((first_port + 4))"

until ray health-check --address "$address" >/dev/null 2>&1; do
  [ -z "$told_to_stop" ] || break
  kill -0 "${steps[0]}" 2>/dev/null || { echo "slurm.sh: Ray could not be started on $first_node; see above" >&2; exit 1; }
  sleep 2
done

others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
  ray_on --nodes="$others" --ntasks="$others" --exclude="$first_node" ray start --address="$address" \
    --dashboard-agent-listen-port="$((first_port + 3))" --metrics-export-port="$((first_port + 4))"
fi

status=1
if [ -z "$told_to_stop" ]; then
  orchestrate "$@" --address "$address" &
  driver=$!
  waited=0
  while [ "$waited" -le "$signals" ]; do # a trapped signal ends `wait` in the driver's place: once more for each
    answer=0
    wait "$driver" 2>/dev/null || answer=$?
    [ "$answer" -eq 127 ] || status=$answer
    waited=$((waited + 1))
  done
fi

# A job that is preempted or cancelled runs no more: SLURM requeues the one, and the other is to stay away.
if [ -n "$told_to_stop" ] && [ "$status" -ne 0 ] &&
  [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
  echo "slurm.sh: out of time, stopped; job $SLURM_JOB_ID goes back into the queue" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
