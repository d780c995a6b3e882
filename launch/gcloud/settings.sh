# What the other scripts of this folder use; worker_*.sh read it on the TPU's machines.
# shellcheck shell=bash disable=SC2034
NAME={{ job.name | sh }}
# The TPU: {{ job.machines.name }}, {{ job.machines.chips }} chips on {{ job.machines.hosts }} machine{{ "s" if job.machines.hosts > 1 }}.
ACCELERATOR={{ job.machines.accelerator }}
RUNTIME={{ job.machines.runtime }}
ZONE={{ job.zone | sh }}
{% if job.project %}
PROJECT={{ job.project | sh }}
{% else %}
PROJECT=${PROJECT:-$(gcloud config get project 2>/dev/null || true)}
{% endif %}
# --spot: cheap, and taken away when others pay more; empty: on demand.
TIER={{ "--spot" if job.spot }}
# What is copied to the machines: {{ "the project, with the config in it" if job.checkout else "the config; the package is installed from the index" }}.
WORKDIR={{ job.workdir | sh }}
# The same run directory whenever the job starts again: it goes on from the last checkpoint there.
TRAIN=({{ job.words(data=job.data | sh, run=job.run | sh) }})

# WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, SUSPENDED and so on; nothing if there is no such TPU.
state() {
  gcloud compute tpus queued-resources describe "$NAME" \
    --zone="$ZONE" --project="$PROJECT" --format='value(state.state)' 2>/dev/null || true
}
