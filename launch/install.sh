# A Python of its own (FER-JAX needs 3.11 or newer) with the pinned packages.
command -v uv >/dev/null || python3 -m pip install --quiet --user uv
export PATH="$HOME/.local/bin:$PATH"
uv venv --quiet --allow-existing --python 3.12 "$HOME/fer-jax-venv"
export VIRTUAL_ENV="$HOME/fer-jax-venv"
{% if job.checkout %}
uv pip install --quiet --require-hashes --no-deps -r requirements/{{ packages }}.txt
uv pip install --quiet --no-deps .
{% else %}
uv pip install --quiet 'fer-jax[{{ extras }}]=={{ job.version }}'
{% endif %}
