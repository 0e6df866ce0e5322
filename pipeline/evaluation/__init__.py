"""What a sample is worth: observables of showers, metrics against held-out Geant4, and the floor beside them."""
