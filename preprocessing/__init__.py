"""From raw video files and images to record shards; needs no JAX."""
