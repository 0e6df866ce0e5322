"""Training: one loop for all runs; fine-tuning is another initial state."""
