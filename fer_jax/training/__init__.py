"""Training: one device step, the loop around it, checkpoints, and what is measured."""
