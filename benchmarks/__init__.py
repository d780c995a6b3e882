"""Side-by-side measurements, one file a question: `python -m benchmarks.<question> --json`."""
