"""Trained recognisers at work: prediction on videos and images."""
