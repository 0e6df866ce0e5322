"""The CaloChallenge's formulas against an independent float64 computation on the same files; its networks, small."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from data_fixtures import dataset, write_raw

from pipeline.calorimeter import CylinderMesh, RaggedShowers
from pipeline.config import BUILT_IN_DETECTORS, SimulateSpec
from pipeline.data.formats import READERS
from pipeline.evaluation.challenge import (
    FEATURES,
    SAMPLING_FRACTION,
    high_features,
    histogram_separation,
    low_features,
)
from pipeline.evaluation.challenge_networks import (
    NetworkScorer,
    ResidualNetwork,
    adamw,
    calibrated,
    dense_network,
)
from pipeline.evaluation.classifier import Fold, Scored, Sides, fold_of, held_out_auc
from pipeline.evaluation.metrics import separation_power
from pipeline.evaluation.observables import Hits, observe_block
from pipeline.simulation.parametric import simulate_parametric

MESH = CylinderMesh(9, 10, 15, dr_mm=4.65, dz_mm=10.2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two raw files of parametric SiW showers in the challenge's layout, not divided by the sampling fraction."""
    folder = tmp_path_factory.mktemp("challenge")
    detector = BUILT_IN_DETECTORS["SiW"].model_copy(update={"mesh": MESH.as_spec()})
    spec = SimulateSpec(engine="parametric", files=1, showers=120, energy_gev=(1, 8), angle_deg=90, threshold_mev=0.015)
    return [
        write_raw(folder / f"{seed}.h5", simulate_parametric(spec, "SiW", detector, seed), sampling_corrected=False)
        for seed in (1, 2)
    ]


def read(path):
    detector = BUILT_IN_DETECTORS["SiW"].model_copy(update={"mesh": MESH.as_spec()})
    reader, spec = READERS["calochallenge"], dataset(sampling_corrected=False, angle_deg=90)
    description = reader.describe(path, spec, detector)
    return RaggedShowers.from_dense(reader.read(path, description, slice(0, None)))


def challenge_features(path):
    """`HighLevelFeatures` and `prepare_high_data_for_classifier`, as their formulas are written, in float64."""
    with h5py.File(path) as handle:
        voxels = handle["showers"][:].astype(np.float64) / SAMPLING_FRACTION  # r fastest, then alpha, then z
        incident = handle["incident_energies"][:].astype(np.float64).reshape(-1, 1)
    layers = voxels.reshape(len(voxels), MESH.n_z, MESH.n_phi * MESH.n_r)
    edges = np.linspace(-np.pi, np.pi, MESH.n_phi + 1)
    alpha = np.repeat((edges[1:] + edges[:-1]) / 2, MESH.n_r)
    radius = np.tile((np.arange(MESH.n_r) + 0.5) * MESH.dr_mm, MESH.n_phi)
    per_layer = {name: [] for name in ("E", "eta", "phi", "w_eta", "w_phi", "sparsity", "r", "w_r")}
    for i in range(MESH.n_z):
        energy = layers[:, i]
        per_layer["E"].append(energy.sum(axis=-1))
        per_layer["sparsity"].append(1.0 - (energy > 0).mean(axis=-1))
        for name, position in (("eta", radius * np.cos(alpha)), ("phi", radius * np.sin(alpha)), ("r", radius)):
            centre = (position * energy).sum(axis=-1) / (energy.sum(axis=-1) + 1e-16)
            square = (position * position * energy).sum(axis=-1) / (energy.sum(axis=-1) + 1e-16)
            per_layer[name].append(centre)
            per_layer[f"w_{name}"].append(np.sqrt((square - centre**2).clip(min=0.0)))
    f = {name: np.stack(columns, axis=1) for name, columns in per_layer.items()}
    total = np.log10(voxels.sum(axis=-1, keepdims=True) + 1e-8)
    columns = [np.log10(incident), np.log10(f["E"] + 1e-8), f["eta"] / 1e2, f["phi"] / 1e2, f["w_eta"] / 1e2]
    columns += [f["w_phi"] / 1e2, total, f["sparsity"], f["r"] / 1e2, f["w_r"] / 1e2]
    return np.concatenate(columns, axis=1)


def challenge_separation(first, second, bins):
    """`evaluate_plotting_helper._separation_power` of density histograms."""
    p, q = (np.histogram(side, bins=bins, density=True)[0] * np.diff(bins) for side in (first, second))
    return 0.5 * ((p - q) ** 2 / (p + q + 1e-16)).sum()


# ------------------------------------------------------------------------------- features and separation powers


def test_high_level_features_are_the_challenges(files) -> None:
    for path in files:
        ours = high_features(observe_block(Hits.of(read(path)), FEATURES), MESH)
        theirs = challenge_features(path)
        assert ours.shape == theirs.shape == (120, 8 * MESH.n_z + 2)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_separation_powers_are_the_challenges(files) -> None:
    ours = [high_features(observe_block(Hits.of(read(path)), FEATURES), MESH) for path in files]
    theirs = [challenge_features(path) for path in files]
    response = [10 ** (f[:, 1 + 5 * MESH.n_z] - f[:, 0]) for f in ours]
    slow = [10 ** (f[:, 1 + 5 * MESH.n_z] - f[:, 0]) for f in theirs]
    bins = np.linspace(0.5, 1.5, 101)  # E_tot / E_inc, as the challenge bins it
    assert histogram_separation(*response, bins) == pytest.approx(challenge_separation(*slow, bins), abs=1e-6)
    for column in range(1, ours[0].shape[1]):
        values = np.concatenate([f[:, column] for f in theirs])
        bins = np.linspace(values.min() - 1e-4, values.max() + 1e-4, 41)
        fast = histogram_separation(ours[0][:, column], ours[1][:, column], bins)
        assert fast == pytest.approx(challenge_separation(theirs[0][:, column], theirs[1][:, column], bins), abs=1e-6)


def test_separation_power_of_histograms_is_the_challenges() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=500), rng.normal(0.2, 1, size=400)
    bins = np.linspace(-6, 6, 101)
    counts = (np.histogram(side, bins)[0].astype(float) for side in (a, b))
    assert separation_power(*counts) == pytest.approx(challenge_separation(a, b, bins), abs=1e-12)


def test_low_features_are_fractions_of_the_incident_energy(files) -> None:
    showers = read(files[0])
    rows = np.array([5, 0, 5])
    features = low_features(showers)[rows]
    voxels = showers.dense().energy.reshape(len(showers), -1)[rows] / SAMPLING_FRACTION
    np.testing.assert_allclose(features[:, :-1], voxels / showers.incident_energy[rows, None], rtol=1e-6)
    np.testing.assert_allclose(features[:, -1], np.log10(showers.incident_energy[rows]), rtol=1e-6)
    assert low_features(showers).shape == (120, MESH.n_cells + 1)


# ------------------------------------------------------------------------------- Geant4 against Geant4, in small


def mean_difference(sides: Sides, fold: Fold, seed: int) -> Scored:
    """Fisher's oldest idea, quick enough to be repeated: the projection on the difference of the means."""
    features, labels = sides.features(fold.fit), sides.labels(fold.fit)
    width = features.std(axis=0) + 1e-9
    direction = (features[labels == 1].mean(axis=0) - features[labels == 0].mean(axis=0)) / width**2
    return Scored((sides.features(fold.test) @ direction).astype(np.float64))


def test_auc_of_equals_stays_within_its_error(files) -> None:
    showers = RaggedShowers.concatenate([read(path) for path in files])
    features = high_features(observe_block(Hits.of(showers), FEATURES), MESH)[:, 1:].astype(np.float32)
    pulls = []
    for repetition in range(80):
        rows = np.random.default_rng(repetition).permutation(len(features))
        auc = held_out_auc(features[rows[:100]], features[rows[100:200]], mean_difference, 3, repetition)
        pulls.append((auc.value - 0.5) / auc.error)
    assert abs(np.mean(pulls)) < 0.4
    assert 0.7 < np.std(pulls, ddof=1) < 1.3


# ------------------------------------------------------------------------------- networks


def test_dense_network_has_the_challenges_layers() -> None:
    network = dense_network(362)
    assert [layer.out_features for layer in network if isinstance(layer, torch.nn.Linear)] == [2048, 2048, 2048, 1]
    assert sum(isinstance(layer, torch.nn.LeakyReLU) for layer in network) == 3


def test_residual_network_has_the_challenges_size() -> None:
    network = ResidualNetwork(CylinderMesh(9, 16, 45, 4.65, 3.4))
    assert sum(isinstance(m, torch.nn.Conv3d) for m in network.modules()) == 1 + 16 + 3  # three short cuts
    assert network(torch.zeros(2, 6481)).shape == (2,)


def test_residual_network_sees_z_phi_r() -> None:
    mesh = CylinderMesh(2, 3, 4, 1, 1)
    network = ResidualNetwork(mesh, (2, 2, 2, 2))
    seen = []
    network.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    cells = np.arange(24.0).reshape(mesh.shape)  # r, phi, z
    network.eval()(torch.tensor(np.append(cells, 1.0)[None], dtype=torch.float32))
    np.testing.assert_array_equal(seen[0][0, 0].numpy(), cells.transpose(2, 1, 0))


def test_rate_falls_to_a_hundredth_in_the_last_epochs() -> None:
    optimiser, schedule = adamw(torch.nn.Linear(1, 1), 50)
    rates = []
    for _ in range(50):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates[:35] == [2e-4] * 35  # as milestones 35 .. 49 of a MultiStepLR
    assert rates[35] == pytest.approx(2e-4 * 0.01 ** (1 / 15)) and rates[49] == pytest.approx(2e-6)


def small(inputs: int) -> torch.nn.Module:
    return dense_network(inputs, width=64)


def scorer(**changes) -> NetworkScorer:
    return NetworkScorer(**({"network": small, "epochs": 12, "batch": 30} | changes))


def test_network_sees_a_shift_and_nothing_in_equals() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 300, 4)).astype(np.float32)
    equal, shifted = held_out_auc(a, b, scorer(), 2, 1), held_out_auc(a, b + 1, scorer(), 2, 1)
    assert abs(equal.value - 0.5) < 4 * equal.error
    assert shifted.value > 0.85 and 0 <= shifted.jsd.value <= 1


def test_network_repeats_itself_and_leaves_torch_alone() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 40, 3)).astype(np.float32)
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    first, second = (held_out_auc(a, b, scorer(epochs=3), 2, 5) for _ in range(2))
    assert first == second
    assert torch.get_num_threads() == threads and torch.equal(torch.random.get_rng_state(), state)


def test_a_shared_condition_gives_a_network_no_label() -> None:
    condition = np.linspace(0, 1, 100, dtype=np.float32)[:, None]
    auc = held_out_auc(condition, condition.copy(), scorer(epochs=5), 2, 1)
    assert auc.value == pytest.approx(0.5, abs=1e-9)


def test_image_network_tells_louder_showers(files) -> None:
    showers = read(files[0])
    louder = RaggedShowers(
        **{k: getattr(showers, k) for k in ("row_size", "cell", "incident_energy", "theta", "phi", "mesh", "detector")},
        energy=1.3 * showers.energy,
    )
    network = NetworkScorer(lambda n: ResidualNetwork(MESH, (4, 4, 4, 8)), adamw, epochs=6, batch=36)
    sides = Sides(low_features(showers, 100), low_features(louder, 100))
    scored = network(sides, fold_of(sides.n, 0, 1), 1)
    assert scored.scores.shape == (48,)
    assert scored.scores[24:].mean() > scored.scores[:24].mean() + 0.1


def test_calibrated_scores_and_divergence_by_hand() -> None:
    # choosing part: logits 0, 1 hold half the label each: calibrated .5 everywhere, no divergence
    blind = calibrated(np.array([0.0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([0.0, 1.0]), np.array([0, 1]))
    np.testing.assert_allclose(blind.scores, 0.5)
    assert blind.jsd == pytest.approx(0, abs=1e-12)
    sure = calibrated(np.array([-3.0, 3.0]), np.array([0, 1]), np.array([-3.0, 3.0]), np.array([0, 1]))
    assert sure.jsd == pytest.approx(1, abs=1e-5)
