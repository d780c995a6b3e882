#!/usr/bin/env bash
# Starts training on every machine of the TPU and follows it. Interrupting this ends the following,
# not the training: repeat it to follow again. Ends with training's own exit status, or with 75 if
# the TPU is gone.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=settings.sh
source ./settings.sh

on() { # on WORKER COMMAND
  gcloud compute tpus tpu-vm ssh "$NAME" \
    --worker="$1" --zone="$ZONE" --project="$PROJECT" --command="$2"
}

on all 'bash worker_train.sh'
seen=0
while true; do
  sleep 30
  # New lines of the log, and the exit status behind a mark once there is one.
  # shellcheck disable=SC2016
  if said=$(on 0 "tail -n +$((seen + 1)) fer-jax.log; test ! -f fer-jax.exit || echo \"fer-jax ended: \$(cat fer-jax.exit)\""); then
    if [ -n "$said" ]; then
      printf '%s\n' "$said"
      seen=$((seen + $(printf '%s\n' "$said" | wc -l)))
    fi
    code=$(printf '%s\n' "$said" | sed -n 's/^fer-jax ended: //p' | tail -n 1)
    if [ -n "$code" ]; then
      exit "$code"
    fi
    continue
  fi
  state=$(gcloud compute tpus queued-resources describe "$NAME" \
    --zone="$ZONE" --project="$PROJECT" --format='value(state.state)' 2>/dev/null || true)
  # A machine that does not answer may be a bad connection of ours.
  if [ "$state" != ACTIVE ]; then
    echo "$NAME is ${state:-gone}" >&2
    exit 75
  fi
done
