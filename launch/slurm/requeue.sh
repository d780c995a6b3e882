# 130 and 143: asked to stop, and saved. 2 is a mistake of the user's, which no retry mends.
case "$code" in
  130 | 143) scontrol requeue "{{ "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" if job.array else "$SLURM_JOB_ID" }}" ;;
esac
exit "$code"
