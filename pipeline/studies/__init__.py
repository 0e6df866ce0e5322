"""Studies: what frozen pre-trained encoders are worth downstream, against baselines and controls, with errors."""
