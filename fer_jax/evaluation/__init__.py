"""What a trained recogniser is worth: metrics, intervals, reports."""
