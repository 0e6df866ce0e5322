"""Generation: trained models become showers in MeV and predicted energies."""
