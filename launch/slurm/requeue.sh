# 130 and 143: asked to stop, and saved. 5: another node was lost; three times that is bad luck.
# 2 is a mistake of the user's, which no retry mends.
again=no
case "$code" in
  130 | 143) again=yes ;;
  5) if [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ]; then again=yes; fi ;;
esac
if [ "$again" = yes ]; then
  scontrol requeue "{{ "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" if job.array else "$SLURM_JOB_ID" }}"
fi
exit "$code"
