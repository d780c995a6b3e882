"""Sweeps: many trials of a config, chosen by Optuna, trained by processes, populations or Ray.

space       what is searched, as text becomes it, and a trial's config
samplers    how the next trial is chosen and when one is pruned
study       the study in a file or database: who takes which trial, and what became of it
worker      what trains trials, in a process of its own
driver      the loop between the study and the workers
results     the table, CSV, best.json
"""
