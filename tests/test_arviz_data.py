"""Data, likelihood, predictions and prior for ArviZ, and what ArviZ makes of them."""

import numpy as np
import pytest
import torch
import xarray as xr

import smcguide as sg
from smcguide.testing.statistics import z_test

az = pytest.importorskip("arviz")
stats = pytest.importorskip("scipy.stats")

NOISE = 0.8
A = torch.randn(8, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
Y = torch.tensor([0.5, -1.0, 0.2, 2.0, -0.4, 0.9, -1.6, 0.1], dtype=torch.float64)
PRIOR = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2).double(), scale=1.0)
COST = sg.costs.LinearGaussian(A, Y, NOISE)
DATA = {"posterior_predictive", "log_likelihood", "observed_data", "constant_data"}
PRIORS = {"prior", "prior_predictive"}


def run(cost=COST, **options):
    options = {"num_particles": 600, "num_steps": 16, "progress": False, **options}
    return sg.sample(PRIOR, cost, **options)


@pytest.fixture(scope="module")
def posterior():
    """Two replicates of a linear regression."""
    return run(num_systems=2)


@pytest.fixture(scope="module")
def data(posterior):
    return posterior.to_arviz(prior=PRIOR, cost=COST)


def names(container):
    """Of the groups, with ArviZ 0.x and 1.x."""
    return set(container.children if isinstance(container, xr.DataTree) else container.groups())


def tensor(array):
    return torch.from_numpy(np.array(array.values))


def law(mean, std):
    return torch.distributions.Normal(mean, std)


def test_groups_come_with_the_cost_and_the_prior(posterior, data):
    own = {"posterior", "sample_stats", "weighted_posterior", "smc"}
    assert names(posterior.to_arviz()) == own
    assert names(posterior.to_arviz(cost=COST)) == own | DATA
    assert names(posterior.to_arviz(prior=PRIOR)) == own | {"prior"}
    assert names(data) == own | DATA | PRIORS
    for group in ("posterior_predictive", "log_likelihood", "prior_predictive"):
        assert dict(data[group].sizes) == {"chain": 2, "draw": 600, "y_dim_0": 8}


def test_the_data_are_the_data(data):
    assert torch.equal(tensor(data["observed_data"]["y"]), Y)
    assert torch.equal(
        tensor(data["constant_data"]["y_noise_std"]), torch.full((8,), NOISE, dtype=torch.float64)
    )


def test_the_log_likelihood_is_that_of_each_entry_at_each_draw(data):
    x = tensor(data["posterior"]["x0"])
    exact = law(x @ A.T, NOISE).log_prob(Y)
    torch.testing.assert_close(tensor(data["log_likelihood"]["y"]), exact)
    torch.testing.assert_close(tensor(data["sample_stats"]["log_likelihood"]), exact.sum(-1))
    torch.testing.assert_close(tensor(data["sample_stats"]["log_likelihood"]), -COST(x))


def test_predictions_have_the_law_of_the_data_given_the_draws(data):
    for draws, made in (("posterior", "posterior_predictive"), ("prior", "prior_predictive")):
        z = (tensor(data[made]["y"]) - tensor(data[draws]["x0"]) @ A.T) / NOISE
        z = z.flatten(0, 1)
        z_test(torch.cat([z, z**2], -1), torch.tensor([0.0] * 8 + [1.0] * 8).double(), 0.2)


def test_draws_of_the_prior_have_its_law(data):
    x = tensor(data["prior"]["x0"]).flatten(0, 1)
    for i in range(2):
        assert stats.kstest(x[:, i].numpy(), "norm").pvalue > 1e-3


def test_the_seed_is_that_of_draws_and_predictions(posterior, data):
    again = posterior.to_arviz(prior=PRIOR, cost=COST)
    other = posterior.to_arviz(prior=PRIOR, cost=COST, seed=1)
    for group in ("posterior", "posterior_predictive", "prior", "prior_predictive"):
        assert again[group].equals(data[group])
        assert not other[group].equals(data[group])


def exact_loo():
    """Sum over entries of log p(y_i | the others), in closed form."""
    S = A @ A.T + NOISE**2 * torch.eye(8)
    precision = torch.linalg.inv(S)
    variance = 1 / precision.diagonal()
    return float(law(Y - variance * (precision @ Y), variance.sqrt()).log_prob(Y).sum())


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution")
def test_loo_finds_the_exact_leave_one_out_density(data):
    found = az.loo(data)
    elpd = float(getattr(found, "elpd_loo", None) or found.elpd)  # ArviZ 0.x, 1.x
    assert abs(elpd - exact_loo()) < 0.8
    wrong = float(tensor(data["log_likelihood"]["y"]).mean((0, 1)).sum())
    assert abs(wrong - exact_loo()) > 1.6  # what the test can tell from it


@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")
@pytest.mark.filterwarnings("ignore::UserWarning:arviz_plots")
def test_arviz_draws_its_pictures_of_predictions(data):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    if az.__version__.startswith("0."):
        assert az.plot_ppc(data, num_pp_samples=10).get_lines()
        assert az.plot_ppc(data, group="prior", num_pp_samples=10).get_lines()
        assert az.plot_loo_pit(data, y="y").get_lines()
    else:
        az.plot_ppc_dist(data, num_samples=10)
        az.plot_ppc_dist(data, group="prior_predictive", num_samples=10)
        az.plot_loo_pit(data)
        az.plot_prior_posterior(data)
    pyplot.close("all")


def test_the_container_survives_a_file(data, posterior, tmp_path):
    data.to_netcdf(str(tmp_path / "run.nc"))
    again = az.from_netcdf(str(tmp_path / "run.nc"))
    assert names(again) == names(data)
    for group in names(data):
        assert again[group].equals(data[group]), group
    assert torch.equal(sg.Posterior.load(tmp_path / "run.nc").x, posterior.x)


def test_a_mask_tells_which_entries_it_selects():
    mask = torch.tensor([[True, False, True]])
    y = torch.tensor([[1.0, float("nan"), 2.0]])
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 1, 3), scale=1.0)
    cost = sg.costs.LinearGaussian(mask, y, torch.tensor([[0.1, 9.0, 0.3]]))
    post = sg.sample(prior, cost, num_particles=20, num_steps=4, progress=False)
    data = post.to_arviz(5, cost=cost)
    assert data["observed_data"]["y"].values.tolist() == [1.0, 2.0]
    assert data["constant_data"]["y_selected"].values.tolist() == [0, 2]
    np.testing.assert_allclose(data["constant_data"]["y_noise_std"].values, [0.1, 0.3], rtol=1e-6)
    assert dict(data["log_likelihood"].sizes) == {"chain": 1, "draw": 5, "y_dim_0": 2}


def test_an_observation_of_any_shape_keeps_it():
    for shape in ((), (2, 2)):
        cost = sg.costs.GaussianLikelihood(
            lambda x, shape=shape: x.sum(-1).reshape(-1, *[1] * len(shape)).expand(-1, *shape),
            torch.ones(shape), 1.0,
        )  # fmt: skip
        data = run(cost, num_particles=20, num_steps=4).to_arviz(5, cost=cost, prior=PRIOR)
        assert data["observed_data"]["y"].shape == shape
        assert data["constant_data"]["y_noise_std"].shape == shape
        for group, variable in (("log_likelihood", "y"), ("posterior_predictive", "y")):
            assert data[group][variable].shape == (1, 5, *shape)


def test_of_a_sum_the_likelihoods_count():
    other = sg.costs.LinearGaussian(torch.eye(2), torch.tensor([1.0, 2.0]), 0.5)
    cost = COST + other + (lambda x: x.abs().sum(-1))
    data = run(cost, num_particles=20, num_steps=4).to_arviz(5, cost=cost)
    assert set(data["observed_data"].data_vars) == {"y_0", "y_1"}
    assert set(data["log_likelihood"].data_vars) == {"y_0", "y_1"}
    x = tensor(data["posterior"]["x0"])
    torch.testing.assert_close(
        tensor(data["sample_stats"]["log_likelihood"]), -(COST(x) + other(x))
    )


def test_systems_with_their_own_data_are_taken_one_by_one():
    y = torch.stack([Y, Y + 1.0, -Y])
    cost = sg.costs.LinearGaussian(A, y, NOISE, batched=True)
    data = run(cost, num_particles=200).to_arviz(cost=cost, prior=PRIOR)
    assert data["observed_data"]["y"].dims == ("chain", "y_dim_0")
    one = data.isel(chain=[1])
    assert torch.equal(tensor(one["observed_data"]["y"])[0], Y + 1.0)
    x = tensor(one["posterior"]["x0"])
    exact = law(x @ A.T, NOISE).log_prob(Y + 1.0)
    torch.testing.assert_close(tensor(one["log_likelihood"]["y"]), exact)


class Poisson(sg.costs.TerminalCost):
    """Counts: somebody's own likelihood."""

    def __init__(self, y):
        self.y, self.obs_shape = y.double().reshape(1, 1, -1), tuple(y.shape)

    def __call__(self, x0):
        return -self.pointwise(x0).sum(-1)

    def pointwise(self, x0):
        return torch.distributions.Poisson(x0.double().exp()).log_prob(self.y)

    def simulate(self, x0, generator):
        return torch.poisson(x0.double().exp(), generator=generator)


def test_anybodys_likelihood_serves():
    cost = Poisson(torch.tensor([3, 0]))
    data = run(cost, num_particles=50, num_steps=8).to_arviz(20, cost=cost)
    rate = data["posterior"]["x0"].values
    expected = stats.poisson.logpmf([3, 0], np.exp(rate))
    np.testing.assert_allclose(data["log_likelihood"]["y"].values, expected)
    new = data["posterior_predictive"]["y"].values
    assert (new == np.round(new)).all() and (new >= 0).all()
    assert "constant_data" not in names(data)


# ---- refusals ------------------------------------------------------------------------------------


def test_a_plain_function_has_no_data(posterior):
    def energy(x):
        return x.square().sum(-1)

    with pytest.raises(sg.InvalidInput, match="cost energy is a number without data"):
        posterior.to_arviz(cost=energy)


def test_a_cost_of_other_events_is_refused(posterior):
    cost = sg.costs.LinearGaussian(torch.eye(3), torch.zeros(3), 1.0)
    with pytest.raises(sg.InvalidInput, match="forward model"):
        posterior.to_arviz(cost=cost)


def test_a_cost_of_other_systems_is_refused(posterior):
    batched = sg.costs.LinearGaussian(A, torch.stack([Y] * 3), NOISE, batched=True)
    with pytest.raises(sg.InvalidInput, match=r"had the same data .* has data of 3 systems"):
        posterior.to_arviz(cost=batched)
    post = run(batched, num_particles=10, num_steps=2)
    with pytest.raises(sg.InvalidInput, match="had data of 3 systems, the cost has the same data"):
        post.to_arviz(cost=COST)


def test_a_prior_of_other_events_is_refused(posterior):
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 5).double(), scale=1.0)
    with pytest.raises(sg.InvalidInput, match=r"events of shape \(5,\), the posterior \(2,\)"):
        posterior.to_arviz(prior=prior)


def test_a_prior_without_noise_levels_is_refused():
    class Walk(sg.FeynmanKac):
        num_steps, event_shape = 3, (2,)

        def initial(self, shape, generator):
            x = torch.randn((*shape, 2), generator=generator)
            return sg.Propagated(x, torch.zeros(shape))

        def step(self, k, x, carry, generator):
            return sg.Propagated(x, torch.zeros(x.shape[:2]))

    post = sg.run(Walk(), num_particles=5, progress=False)
    with pytest.raises(sg.InvalidInput, match=r"needs a run of a diffusion, .* from 0\.0 to 3\.0"):
        post.to_arviz(prior=PRIOR)
