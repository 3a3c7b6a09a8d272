"""ArviZ opens what we export and what we save; see also test_arviz_data.py.

Both files run with ArviZ 0.23 (Python 3.11) and 1.x (3.12 and later), with which it comes is a matter of
the Python version:

    python3.12 -m venv env && env/bin/pip install -e '.[arviz]' torch pytest pytest-xdist
    env/bin/python -m pytest tests/test_arviz.py tests/test_arviz_data.py tests/test_netcdf.py
"""

import dataclasses

import numpy as np
import pytest
import torch
import xarray as xr

import smcguide as sg

az = pytest.importorskip("arviz")

GROUPS = {"posterior", "sample_stats", "weighted_posterior", "smc"}


@pytest.fixture(scope="module")
def posterior():
    """Three replicates of a conjugate problem."""
    origin = torch.zeros(1, 2, dtype=torch.float64)
    prior = sg.priors.GaussianMixture(torch.ones(1), origin, scale=1.0)
    cost = sg.costs.LinearGaussian(torch.eye(2), torch.tensor([1.0, -1.0]), 1.0)
    return sg.sample(prior, cost, num_particles=400, num_systems=3, num_steps=10)


def test_container_is_that_of_the_installed_arviz(posterior):
    data = posterior.to_arviz()
    if az.__version__.startswith("0."):
        assert isinstance(data, az.InferenceData)
        assert set(data.groups()) == GROUPS
    else:
        assert isinstance(data, xr.DataTree)
        assert set(data.children) == GROUPS


def test_dims(posterior):
    data = posterior.to_arviz(50)
    assert dict(data["posterior"].sizes) == {"chain": 3, "draw": 50, "x0_dim_0": 2}
    assert dict(data["weighted_posterior"]["log_weight"].sizes) == {"chain": 3, "particle": 400}
    assert data["smc"]["ess"].dims == ("chain", "step")


def test_summary_agrees_with_the_posterior(posterior):
    table = az.summary(posterior.to_arviz(), round_to="none")
    assert list(table.index) == ["x0[0]", "x0[1]"]
    pooled = posterior.pooled()
    draws_sd = pooled.std() / np.sqrt(3 * 400)
    assert np.all(np.abs(table["mean"].to_numpy() - pooled.mean().numpy()) < 5 * draws_sd.numpy())
    np.testing.assert_allclose(table["sd"].to_numpy(), pooled.std().numpy(), rtol=0.1)


def from_zarr(path):
    """ArviZ 0.23 reads zarr 3 by way of xarray only."""
    if not az.__version__.startswith("0."):
        return az.from_zarr(path)
    with xr.open_datatree(path, engine="zarr") as tree:
        return az.InferenceData.from_datatree(tree.load())


@pytest.mark.parametrize(("suffix", "read"), [(".nc", az.from_netcdf), (".zarr", from_zarr)])
def test_arviz_opens_a_saved_file(suffix, read, posterior, tmp_path):
    posterior.save(tmp_path / f"run{suffix}")
    data = read(tmp_path / f"run{suffix}")
    np.testing.assert_array_equal(
        data["weighted_posterior"]["x0"].values, posterior.particles.numpy()
    )
    np.testing.assert_array_equal(
        data["posterior"]["x0"].values, posterior.to_arviz()["posterior"]["x0"].values
    )
    assert data["posterior"].attrs["inference_library"] == "smcguide"


def test_a_file_that_arviz_writes_loads(posterior, tmp_path):
    posterior.to_arviz(30).to_netcdf(str(tmp_path / "run.nc"))
    loaded = sg.Posterior.load(tmp_path / "run.nc")
    assert torch.equal(loaded.x, posterior.x) and torch.equal(loaded.log_w, posterior.log_w)
    assert loaded.settings == posterior.settings


def test_r_hat_compares_the_replicates(posterior):
    apart = dataclasses.replace(posterior, x=posterior.x + 9.0 * torch.arange(3)[:, None, None])
    for post, low, high in ((posterior, 0.98, 1.05), (apart, 1.5, 9.0)):
        r_hat = az.rhat(post.to_arviz()["posterior"])["x0"].values
        assert ((low < r_hat) & (r_hat < high)).all()


def test_with_arviz_1_the_container_is_a_data_tree(posterior, monkeypatch):
    monkeypatch.setattr(az, "__version__", "1.3.0")
    tree = posterior.to_arviz()
    assert isinstance(tree, xr.DataTree)
    assert set(tree.children) == GROUPS
    assert tree.attrs["inference_library"] == "smcguide"
    for group, axes in {"posterior": "draw", "weighted_posterior": "particle"}.items():
        assert tree[group].attrs["sample_dims"] == ["chain", axes]  # which ArviZ 1.x obeys


def test_a_tensor_that_needs_gradient_is_exported(posterior):
    tracked = dataclasses.replace(posterior, x=posterior.x.clone().requires_grad_())
    values = tracked.to_arviz(10)["posterior"]["x0"].values
    np.testing.assert_array_equal(values, posterior.to_arviz(10)["posterior"]["x0"].values)


@pytest.fixture(scope="module")
def with_parameters():
    """The conjugate problem with an unknown noise level and two unknown offsets."""
    P = torch.distributions
    y = torch.tensor([1.0, -1.0], dtype=torch.float64)

    def misfit(x0, sigma, offset):
        return -P.Normal(x0 + offset, sigma[:, None]).log_prob(y).sum(-1)

    priors = {"sigma": P.LogNormal(0.0, 0.5), "offset": P.Normal(torch.zeros(2), torch.ones(2))}
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2).double(), scale=1.0)
    cost = sg.costs.ParametricFunction(misfit, priors)
    return sg.sample(
        prior, cost, num_particles=400, num_systems=3, num_steps=10, progress=False,
        potential=sg.potentials.Tweedie(),
    )  # fmt: skip


def test_parameters_are_summarised(with_parameters):
    table = az.summary(with_parameters.to_arviz(), round_to="none")
    assert list(table.index) == ["x0[0]", "x0[1]", "sigma", "offset[0]", "offset[1]"]
    alone = az.summary(with_parameters.to_arviz(), var_names=["sigma"], round_to="none")
    assert list(alone.index) == ["sigma"]
    pooled = with_parameters.pooled()
    for name, rows in {"sigma": ["sigma"], "offset": ["offset[0]", "offset[1]"]}.items():
        marginal = pooled.marginal(name)
        mean, std = marginal.mean().reshape(-1).numpy(), marginal.std().reshape(-1).numpy()
        found = table.loc[rows]
        assert np.all(np.abs(found["mean"].to_numpy() - mean) < 5 * std / np.sqrt(3 * 400))
        np.testing.assert_allclose(found["sd"].to_numpy(), std, rtol=0.15)


def test_parameters_have_the_draws_of_the_events(with_parameters):
    data = with_parameters.to_arviz(50)
    assert dict(data["posterior"]["offset"].sizes) == {"chain": 3, "draw": 50, "offset_dim_0": 2}
    place = torch.arange(3)[:, None], torch.from_numpy(data["sample_stats"]["particle"].values)
    for name in ("sigma", "offset"):
        drawn = with_parameters.parameters[name][place]
        np.testing.assert_array_equal(data["posterior"][name].values, drawn.numpy())
        particles = data["weighted_posterior"][name]
        assert particles.dims[:2] == ("chain", "particle")
        np.testing.assert_array_equal(particles.values, with_parameters.parameters[name].numpy())


def test_from_netcdf_opens_a_saved_file_with_parameters(with_parameters, tmp_path):
    with_parameters.save(tmp_path / "run.nc")
    data = az.from_netcdf(tmp_path / "run.nc")
    expected = with_parameters.to_arviz()["posterior"]
    for name in ("x0", "sigma", "offset"):
        np.testing.assert_array_equal(data["posterior"][name].values, expected[name].values)


def test_num_draws_must_be_positive(posterior):
    with pytest.raises(
        sg.InvalidInput, match="num_draws must be a whole number of at least 1, got 0"
    ):
        posterior.to_arviz(0)


def test_half_a_draw_is_refused(posterior):
    with pytest.raises(sg.InvalidInput, match="num_draws must be a whole number"):
        posterior.to_arviz(2.5)


def test_a_prior_must_be_one(posterior):
    with pytest.raises(sg.InvalidInput, match="prior must be the Prior of the run, got int"):
        posterior.to_arviz(prior=3)
