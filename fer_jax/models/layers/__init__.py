"""Layers that Flax lacks or runs slowly, each a pure function with a module around it."""
