"""Files that run FER-JAX elsewhere, for a person to read and edit; and `fer-jax launch`.

skypilot/, gcloud/, slurm/ and container/ hold the files; `launch` fills in what stands in
`{{ ... }}` (Jinja2) and runs them.
"""
