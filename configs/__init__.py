"""One file a system: <paper>_<system>.py with `def experiment() -> Experiment`."""
