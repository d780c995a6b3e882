#!/usr/bin/env bash
# The whole job: create, install, train, delete; and again from the last checkpoint when the TPU is
# taken away. Interrupted, it leaves the TPU there (and paid for): bash delete.sh
set -uo pipefail
cd "$(dirname "$0")" || exit

while true; do
  code=0
  bash create.sh && bash install.sh && bash train.sh || code=$?
  case "$code" in
    # The TPU is gone (75), or training was asked to stop and has saved (130, 143).
    75 | 130 | 143)
      echo "taken away: asking for another; the run goes on from its last checkpoint" >&2
      bash delete.sh || true
      sleep 60
      ;;
    *)
      # 0: done. 2: a mistake of the user's, which no retry mends. Others: look at the log.
      bash delete.sh
      exit "$code"
      ;;
  esac
done
