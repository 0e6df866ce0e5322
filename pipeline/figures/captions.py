"""What each figure shows, in a sentence or two; the same text stands in workflow/report/<figure>.rst for Snakemake.

A test holds the two equal. Definitions: docs/metrics.md.
"""

from __future__ import annotations

_COMMON = (
    "Points and filled area: Geant4 test showers; lines: generated showers at exactly the same conditions. "
    "Hatched: statistical error of Geant4; grey: departure of a second, disjoint Geant4 sample (the floor)."
)

CAPTIONS: dict[str, str] = {
    "summary": "Above: every sample and group of observables, by the observable of the group that is farthest from "
    "the Geant4 floor, in units of the combined error (of several observables one is above 2 by chance now and then); "
    "then what known faults of Geant4's own showers would have shown. Below: every observable over all energies, with "
    "its bootstrap error. The floor compares two disjoint Geant4 samples.",
    "longitudinal_profile": f"Mean visible energy per layer against depth. {_COMMON}",
    "radial_profile": f"Mean visible energy per ring against the distance from the axis. {_COMMON}",
    "azimuthal_profile": f"Mean visible energy per azimuthal sector, flat at perpendicular incidence. {_COMMON}",
    "energy_response": f"Visible over incident energy in bins of the incident energy. {_COMMON}",
    "linearity": "Mean of visible over incident energy, against the incident energy, with statistical errors.",
    "resolution": "Relative width of the response against the incident energy, with the fit of a stochastic, a "
    "constant and a noise term added in quadrature (E in GeV); terms that would be negative are held at 0, not named.",
    "containment": "Mean radius that holds 90 % of a shower's visible energy, against the incident energy, with "
    "statistical errors.",
    "shower_depth": "Mean depth of the shower maximum (gamma profile fitted to each shower) in effective radiation "
    "lengths, against the incident energy, with its growth per doubling of the energy.",
    "angular_dependence": "Mean response, its relative width and the radius that holds 90 % of the energy, against the "
    "polar angle, over all energies, with statistical errors.",
    "cell_spectrum": "Number of cells above threshold per shower, in bins of the cell's visible energy. The dotted "
    f"line is the threshold. {_COMMON}",
    "hits": f"Number of cells above threshold per shower. {_COMMON}",
    "moments": f"First and second moments of the energy along depth and radius, per shower. {_COMMON}",
    "azimuthal_asymmetry": "|sum E exp(i phi)| / E of each shower: a collective quantity that no profile sees, and "
    f"that independent cells get wrong. {_COMMON}",
    "clusters": "Connected clusters of cells above threshold per shower: how the cells of one shower hang together, "
    f"which independent cells get wrong. {_COMMON}",
    "shower_images": "Side views of single showers, energy summed over each half of the azimuth: Geant4 above, "
    "generated below at the same conditions (showers differ as two Geant4 showers would).",
    "shower_unrolled": "Single showers unrolled around the axis: energy summed over the radius, in azimuth and depth. "
    "Geant4 above, generated below at the same conditions; the same showers as in the side views.",
    "shower_space": "Single showers in space: each circle is a cell, larger and darker with its energy; the beam "
    "enters from the left. Geant4 above, generated below at the same conditions. Of showers with "
    "more than 2000 cells the 2000 of most energy are drawn.",
    "average_showers": "The average shower in radius and depth, and in azimuth and depth: mean energy per cell, and "
    "below it the ratio to Geant4 where both are known to 25 %. The ratio under Geant4 is that of "
    "the floor, which shows what chance does. Triangles mark cells that differ by more than 3 "
    "standard errors, upwards or downwards.",
    "energy_prediction": "Left: predicted over true incident energy of test showers. Right: standard deviation of the "
    "relative error per energy bin, beside the calibrated cell sum (a line in log E fitted on the "
    "training split) and the head's own mean uncertainty.",
    "pulls": "Predicted minus true incident energy over the claimed uncertainty, of test showers, beside the "
    "calibrated cell sum; an honest uncertainty gives the unit Gaussian (dotted). Pulls beyond 5 count in the "
    "outer bins.",
    "training_curves": "Loss of the training and the validation split against the number of showers seen.",
    "front": "Left: the AUC of a classifier on shower features (0.5 is perfect) against the measured CPU time per "
    "shower, in network calls of 50 showers on one core; samples of one run are joined, and the numbers "
    "are evaluations of the network. The lines are Geant4's own measured time, over this data set and in "
    "its highest bin of energy. Right: the same AUC against the evaluations, without "
    "samples that are made in none of them, such as decoded latent vectors and codes. Grey: two Geant4 samples.",
    "speedup": "Geant4's measured CPU time over that of each generator, one shower at a time on one core, transform, "
    "threshold and rescale included, against the incident energy.",
    "attention": "Attention of a held-out shower by block and head: how much the patch of most energy (circle) takes "
    "of every patch, summed over the azimuth; the numbers say how many patches it looks at (the exponential of "
    "the entropy). Left: the shower itself. A diffusion sees it with noise of the spread of the data.",
    "forgetting": "Loss on held-out showers of the data sets that a parent was trained on: of the parent, and of the "
    "run that went on from it, with the parent's standardisations and the same random numbers. Bars are standard "
    "errors over blocks of showers; those of the difference, which is paired, are smaller and stand among the "
    "metric rows.",
    "study": "RMS of the relative error of the incident energy on test showers, against the number of labelled showers "
    "or along the study's axis. Linear heads on frozen encoders: pre-trained, pre-trained on cells permuted within "
    "each shower (the control) and random; networks trained on the labels alone; hand-made features. Error bars and "
    "bands: standard deviation over encoder seeds and subsets of labels. Of generators: distance of samples from "
    "held-out showers against the number of the new detector's showers, smaller is better.",
}
