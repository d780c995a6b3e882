#!/usr/bin/env bash
# Asks for the TPU and waits until it is there. Does nothing if it is.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=settings.sh
source ./settings.sh

state() {
  gcloud compute tpus queued-resources describe "$NAME" \
    --zone="$ZONE" --project="$PROJECT" --format='value(state.state)' 2>/dev/null || true
}

if [ -z "$(state)" ]; then
  gcloud compute tpus queued-resources create "$NAME" \
    --node-id="$NAME" --zone="$ZONE" --project="$PROJECT" \
    --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" "${TIER[@]}"
fi
while true; do
  now=$(state)
  case "$now" in
    ACTIVE) break ;;
    FAILED | SUSPENDING | SUSPENDED | DELETING)
      echo "$NAME is $now: bash delete.sh, then try again" >&2
      exit 75
      ;;
    "") echo "cannot see $NAME: is the account signed in, and the project right?" >&2 ; exit 2 ;;
    *) echo "$(date +%T) $NAME: $now" ;;
  esac
  sleep 30
done
echo "$NAME is there"
