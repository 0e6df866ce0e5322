"""The machine and the cluster: what they have, against what an experiment and a profile ask of them."""
