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
  # New lines of the log, and behind them the exit status once there is one.
  ask="tail -n +$((seen + 1)) fer-jax.log
    if [ -f fer-jax.exit ]; then sed 's/^/fer-jax ended: /' fer-jax.exit; fi"
  if said=$(on 0 "$ask"); then
    if [ -n "$said" ]; then
      printf '%s\n' "$said"
      seen=$((seen + $(printf '%s\n' "$said" | wc -l)))
    fi
    code=$(printf '%s\n' "$said" | sed -n 's/^fer-jax ended: //p' | tail -n 1)
    if [ -n "$code" ]; then
      exit "$code"
    fi
  else
    # A machine that does not answer may be a bad connection of ours.
    now=$(state)
    case "$now" in
      ACTIVE | "") ;;
      *)
        echo "$NAME is $now" >&2
        exit 75
        ;;
    esac
  fi
done
