"""ArviZ opens what we export and what we save."""

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


def test_from_netcdf_opens_a_saved_file(posterior, tmp_path):
    posterior.save(tmp_path / "run.nc")
    data = az.from_netcdf(tmp_path / "run.nc")
    np.testing.assert_array_equal(
        data["weighted_posterior"]["x0"].values, posterior.particles.numpy()
    )
    np.testing.assert_array_equal(
        data["posterior"]["x0"].values, posterior.to_arviz()["posterior"]["x0"].values
    )
    assert data.attrs["inference_library"] == "smcguide"


def test_with_arviz_1_the_container_is_a_data_tree(posterior, monkeypatch):
    monkeypatch.setattr(az, "__version__", "1.3.0")
    tree = posterior.to_arviz()
    assert isinstance(tree, xr.DataTree)
    assert set(tree.children) == GROUPS
    assert tree.attrs["inference_library"] == "smcguide"


def test_a_tensor_that_needs_gradient_is_exported(posterior):
    tracked = dataclasses.replace(posterior, x=posterior.x.clone().requires_grad_())
    values = tracked.to_arviz(10)["posterior"]["x0"].values
    np.testing.assert_array_equal(values, posterior.to_arviz(10)["posterior"]["x0"].values)


def test_num_draws_must_be_positive(posterior):
    with pytest.raises(sg.InvalidInput, match="num_draws must be at least 1, got 0"):
        posterior.to_arviz(0)
