"""From record shards to batches: reading, selecting, splitting, features."""
