#!/usr/bin/env bash
# Asks for the TPU and waits until it is there. Does nothing if it is.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=settings.sh
source ./settings.sh

if [ -z "$(state)" ]; then
  gcloud compute tpus queued-resources create "$NAME" \
    --node-id="$NAME" --zone="$ZONE" --project="$PROJECT" \
    --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" ${TIER:+"$TIER"}
fi
unseen=0
while true; do
  now=$(state)
  case "$now" in
    ACTIVE) break ;;
    FAILED | SUSPENDING | SUSPENDED | DELETING)
      echo "$NAME is $now" >&2
      exit 75
      ;;
    "")
      unseen=$((unseen + 1))
      if [ "$unseen" = 20 ]; then
        echo "cannot see $NAME: is the account signed in, and are project and zone right?" >&2
        exit 1
      fi
      ;;
    *)
      unseen=0
      echo "$(date +%T) $NAME: $now"
      ;;
  esac
  sleep 30
done
echo "$NAME is there"
