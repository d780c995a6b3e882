"""What a split leaks: how much of the test set the training set already knows."""

from fer_jax.data.audit.cleaning import without_copies
from fer_jax.data.audit.identities import Identities, content_hash
from fer_jax.data.audit.overlap import LEAKS, audit, refuse

__all__ = ["LEAKS", "Identities", "audit", "content_hash", "refuse", "without_copies"]
