"""Saved posteriors, netCDF and zarr: nothing is lost, other programs can read them."""

import dataclasses
import functools
import json

import h5py
import pytest
import torch
import xarray as xr

import smcguide as sg
from smcguide.bridges.datasets import datasets


def gaussian_run(event=(2,), dtype=torch.float64, systems=None, batched=0, **options):
    """A small guided run on a mixture, with resampling."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, *event, generator=generator, dtype=dtype)
    prior = sg.priors.GaussianMixture(torch.ones(3), means, scale=0.3)
    d = means[0].numel()
    y = torch.randn(*([batched] if batched else []), d, generator=generator, dtype=dtype)
    cost = sg.costs.LinearGaussian(torch.eye(d), y, 0.3, batched=bool(batched))
    model = sg.GuidedDiffusion(
        prior,
        cost,
        kernel=sg.kernels.DDIM(eta=1.0),
        times=sg.grids.karras(6),
        potential=sg.potentials.Terminal(),
        proposal=sg.proposals.Bootstrap(),
    )
    trigger = options.pop("trigger", sg.triggers.always())
    return sg.run(model, num_particles=20, num_systems=systems, trigger=trigger, **options)


def parametric_run(systems=None):
    """A run whose cost has unknown parameters of three shapes, under names that the file uses itself."""
    P = torch.distributions
    priors = {
        "sigma": P.LogNormal(torch.tensor(0.0), torch.tensor(0.5)),
        "log_weight": P.Normal(torch.zeros(3), torch.ones(3)),
        "eve": P.MultivariateNormal(torch.zeros(2), torch.eye(2)),
        "x0": P.Dirichlet(torch.ones(2, 3)),
    }

    def misfit(event, *, sigma, log_weight, eve, x0):
        residual = event + log_weight[:, :2] + eve - x0[:, 0, :2]
        return (residual / sigma[:, None]).square().sum(-1)

    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2), scale=1.0)
    cost = sg.costs.ParametricFunction(misfit, priors)
    return sg.sample(
        prior, cost, num_particles=20, num_systems=systems, num_steps=4,
        potential=sg.potentials.Tweedie(), trigger=sg.triggers.always(), progress=False,
    )  # fmt: skip


class ScalarWalk(sg.FeynmanKac):
    """A user's own model with events of shape (), and a particle that dies."""

    num_steps, event_shape = 3, ()

    def initial(self, shape, generator):
        x = torch.randn(shape, generator=generator)
        log_g = torch.zeros(shape)
        log_g[:, 0] = -torch.inf
        return sg.Propagated(x, log_g)

    def step(self, k, x, carry, generator):
        return sg.Propagated(x + 1, torch.zeros_like(x))


def with_other_states():
    """As of a run that decodes its states at the end: the recorded ones have another shape."""
    generator = torch.Generator().manual_seed(0)
    posterior = gaussian_run((2, 2), record=("log_weights",))
    latents = torch.randn(1, 7, 20, 3, generator=generator)
    return dataclasses.replace(posterior, recorded={**posterior.recorded, "particles": latents})


RUNS = {
    "no systems": lambda: gaussian_run(),
    "float32 images": lambda: gaussian_run((1, 2, 3), torch.float32),
    "replicates": lambda: gaussian_run(systems=3),
    "one system asked for": lambda: gaussian_run(systems=1),
    "one observation per system": lambda: gaussian_run(batched=2),
    "never resampled": lambda: gaussian_run(trigger=sg.triggers.never()),
    "recorded": lambda: gaussian_run(
        (2, 2), batched=2, record=("ancestors", "particles", "log_weights", "x0_hat", "paths")
    ),
    "states of another shape": lambda: with_other_states(),
    "scalar events": lambda: sg.run(ScalarWalk(), num_particles=7, trigger=sg.triggers.never()),
    "pooled": lambda: gaussian_run(systems=3).pooled(),
    "unknown parameters": lambda: parametric_run(),
    "parameters of replicates": lambda: parametric_run(3),
    "parameters, pooled": lambda: parametric_run(3).pooled(),
    "a parameter alone": lambda: parametric_run(2).marginal("x0"),
}


@functools.cache
def made(name):
    return RUNS[name]()


ZARR = ("no systems", "recorded", "scalar events", "parameters of replicates")
CASES = [(name, ".nc") for name in RUNS] + [(name, ".zarr") for name in ZARR]


def assert_same(a, b, name=""):
    """Equal to the bit: same type, dtype, shape and bytes."""
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        assert a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes(), name
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            assert_same(a[key], b[key], f"{name}[{key}]")
    else:
        assert a == b and type(a) is type(b), name


@pytest.mark.parametrize(("name", "suffix"), CASES, ids=lambda text: text.replace(" ", "-"))
def test_load_of_save_is_the_same_posterior(name, suffix, tmp_path):
    posterior = made(name)
    posterior.save(tmp_path / f"run{suffix}")
    loaded = sg.Posterior.load(tmp_path / f"run{suffix}")
    for field in dataclasses.fields(posterior):
        assert_same(getattr(posterior, field.name), getattr(loaded, field.name), field.name)


@pytest.mark.parametrize("name", ["replicates", "unknown parameters", "parameters, pooled"])
def test_load_of_save_answers_every_question_identically(name, tmp_path):
    posterior = made(name)
    posterior.save(str(tmp_path / "run.nc"))
    loaded = sg.Posterior.load(str(tmp_path / "run.nc"))
    questions = {
        "mean": lambda p: p.mean(),
        "std": lambda p: p.std(),
        "quantile": lambda p: p.quantile([0.05, 0.5, 0.95]),
        "expect": lambda p: p.expect(torch.sin),
        "draws": lambda p: p.draws(50, seed=3),
        "get_samples": lambda p: p.get_samples(50, seed=3),
        "parameters": lambda p: {name: p.marginal(name).mean() for name in p.parameters},
        "weights": lambda p: p.weights,
        "log_evidence": lambda p: p.log_evidence,
        "log_evidence_se": lambda p: p.log_evidence_se,
        "method": lambda p: p.log_evidence_method,
        "ess": lambda p: p.ess,
        "bound": lambda p: p.dtm_bound,
        "summary": lambda p: p.summary(),
    }
    for name, ask in questions.items():
        assert_same(ask(posterior), ask(loaded), name)


@pytest.mark.parametrize(("suffix", "engine"), [(".nc", "h5netcdf"), (".zarr", "zarr")])
def test_each_group_opens_in_plain_xarray(suffix, engine, tmp_path):
    posterior = gaussian_run((2, 3), batched=2, record=("particles", "x0_hat"))
    path = tmp_path / f"run{suffix}"
    posterior.save(path)
    expected = {
        "posterior": {"chain": 2, "draw": 20, "x0_dim_0": 2, "x0_dim_1": 3},
        "sample_stats": {"chain": 2, "draw": 20},
        "weighted_posterior": {"chain": 2, "particle": 20, "x0_dim_0": 2, "x0_dim_1": 3},
        "smc": {"chain": 2, "step": 7, "particle": 20, "x0_dim_0": 2, "x0_dim_1": 3},
    }
    groups = {name: xr.load_dataset(path, group=name, engine=engine) for name in expected}
    assert {name: dict(group.sizes) for name, group in groups.items()} == expected
    with xr.open_datatree(path, engine=engine) as tree:
        assert {name: dict(tree[name].to_dataset().sizes) for name in tree} == expected
        assert tree.attrs["inference_library"] == "smcguide"

    def values(group, name):
        return torch.from_numpy(groups[group][name].values)

    place = torch.arange(2)[:, None], values("sample_stats", "particle")
    for name, a in {"log_weight": posterior.log_w, "eve": posterior.eves}.items():
        assert_same(values("sample_stats", name), a[place], name)
    assert_same(values("posterior", "x0"), posterior.x[place])
    assert_same(values("smc", "log_evidence"), posterior.log_evidence)
    assert_same(values("smc", "log_evidence_trace"), posterior.trace["log_evidence"])
    assert_same(values("smc", "x0_hat"), posterior.recorded["x0_hat"])
    smc = groups["smc"]
    assert smc["x0_hat"].dims == smc["particles"].dims == (
        "chain", "step", "particle", "x0_dim_0", "x0_dim_1",
    )  # fmt: skip
    assert smc["resampled"].dtype == bool and smc["resampled"].dims == ("chain", "step")
    assert smc["time"].dims == ("step",) and smc["dtm_bound"].dims == ("chain",)


def test_the_history_is_one_row_per_system_and_step():
    posterior = made("parameters of replicates")
    smc = datasets(posterior)["smc"]
    for name in ("ess", "resampled", "unique_ancestors", "unique_eves", "log_evidence_increment"):
        assert dict(smc[name].sizes) == {"chain": 3, "step": 5}
    gained = torch.from_numpy(smc["log_evidence_increment"].values)
    torch.testing.assert_close(gained.cumsum(1), posterior.trace["log_evidence"])
    torch.testing.assert_close(gained.sum(1), posterior.log_evidence)
    assert smc["dtm_bound"].isnull().all()  # this run resampled: the number does not exist


def test_attributes_of_the_file_are_text(tmp_path):
    posterior = gaussian_run()
    posterior.save(tmp_path / "run.nc")
    with xr.open_dataset(tmp_path / "run.nc", engine="h5netcdf") as root:
        assert all(isinstance(value, str) for value in root.attrs.values())
        assert root.attrs["inference_library_version"] == sg.__version__
        assert json.loads(root.attrs["settings"])["num_particles"] == 20
        assert json.loads(root.attrs["evaluations"]) == dict(posterior.evaluations)


def test_draws_are_equal_weight_and_at_most_1000():
    x = torch.arange(3000.0, dtype=torch.float64)[None, :, None]
    log_w = torch.where(torch.arange(3000) < 1500, 0.0, -torch.inf).double()[None]
    small = gaussian_run()
    many = dataclasses.replace(small, x=x, log_w=log_w, eves=torch.arange(3000)[None])
    index = datasets(many)["sample_stats"]["particle"].values
    assert index.shape == (1, 1000)
    assert index.max() < 1500  # never a particle of weight zero
    assert len(set(index[0] // 15)) == 100  # stratified: every percent of the weight is there


def test_a_file_is_replaced_only_by_a_complete_one(tmp_path, monkeypatch):
    path, write = tmp_path / "run.nc", xr.Dataset.to_netcdf
    gaussian_run().save(path)
    gaussian_run(seed=1).save(path)
    before = path.read_bytes()

    def until_the_disk_is_full(dataset, *args, group, **kwargs):
        if group == "smc":
            assert len(list(tmp_path.iterdir())) == 2  # the unfinished file is beside the old one
            raise OSError("No space left on device")
        return write(dataset, *args, group=group, **kwargs)

    monkeypatch.setattr(xr.Dataset, "to_netcdf", until_the_disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        gaussian_run(seed=2).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_names_of_the_trace_are_free(tmp_path):
    """A model may report under names that the file uses, or cannot use."""
    posterior = gaussian_run()
    names = ("time", "a/b", "a_b", "dtm_bound", "step", "chain")
    odd = {name: torch.full((1, 7), i) for i, name in enumerate(names)}
    posterior = dataclasses.replace(posterior, trace={**posterior.trace, **odd})
    posterior.save(tmp_path / "run.nc")
    assert_same(posterior.trace, sg.Posterior.load(tmp_path / "run.nc").trace)


def test_a_parameter_has_its_own_axes_and_the_draws_of_the_events(tmp_path):
    posterior = parametric_run(3)
    posterior.save(tmp_path / "run.nc")
    read = {
        group: xr.load_dataset(tmp_path / "run.nc", group=group, engine="h5netcdf")
        for group in ("posterior", "sample_stats", "weighted_posterior")
    }
    particle = torch.from_numpy(read["sample_stats"]["particle"].values)
    place = torch.arange(3)[:, None], particle
    keys = {"sigma": "sigma"} | {n: f"{n}_parameter" for n in ("log_weight", "eve", "x0")}
    for name, key in keys.items():
        own = tuple(f"{key}_dim_{i}" for i in range(posterior.parameters[name].ndim - 2))
        all_of_it, drawn = read["weighted_posterior"][key], read["posterior"][key]
        assert all_of_it.dims == ("chain", "particle", *own)
        assert drawn.dims == ("chain", "draw", *own)
        for variable in (all_of_it, drawn):
            assert variable.attrs == {"role": "parameter", "name": name}
        assert_same(torch.from_numpy(all_of_it.values), posterior.parameters[name], name)
        assert_same(torch.from_numpy(drawn.values), posterior.parameters[name][place], name)
    assert_same(torch.from_numpy(read["posterior"]["x0"].values), posterior.x[place], "x0")
    assert_same(torch.from_numpy(read["weighted_posterior"]["eve"].values), posterior.eves, "eve")


@pytest.mark.parametrize(
    "names",
    [
        ("x0", "log_weight", "eve", "chain", "particle", "draw", "x0_dim_0"),
        ("x0", "x0_parameter", "x0_parameter_parameter"),
        ("x0_parameter", "x0"),
        ("sigma_dim_0", "sigma"),
        ("sigma", "sigma_dim_0"),
        ("sigma", "sigma_dim", "sigma_dim_dim_0"),
        ("a/b", "a_b", "a_b_parameter"),
    ],
    ids=" ".join,
)
def test_names_of_parameters_are_free(names, tmp_path):
    """Whatever the file, an axis or another parameter is called."""
    posterior = gaussian_run(systems=2)
    values = {
        name: torch.arange(2 * 20 * (2 + i)).reshape(2, 20, 2 + i) + 0.1 * i
        for i, name in enumerate(names)
    }
    posterior = dataclasses.replace(posterior, parameters=values)
    posterior.save(tmp_path / "run.nc")
    loaded = sg.Posterior.load(tmp_path / "run.nc")
    assert_same(posterior.parameters, loaded.parameters)
    for field in ("x", "log_w", "eves"):
        assert_same(getattr(posterior, field), getattr(loaded, field), field)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_parameters_keep_their_dtype(dtype, tmp_path):
    values = {"k": torch.arange(20).reshape(1, 20).to(dtype)}
    posterior = dataclasses.replace(gaussian_run(), parameters=values)
    posterior.save(tmp_path / "run.nc")
    assert_same(sg.Posterior.load(tmp_path / "run.nc").parameters, values)


def test_states_of_another_shape_have_axes_of_their_own():
    smc = datasets(made("states of another shape"))["smc"]
    assert smc["particles"].dims[:2] == ("chain", "step")
    assert smc["log_weights"].dims == ("chain", "step", "particle")


def test_a_store_is_replaced_whole(tmp_path):
    path = tmp_path / "run.zarr"
    gaussian_run(record=("particles",)).save(path)
    gaussian_run(seed=1).save(path)
    assert_same(sg.Posterior.load(path).x, gaussian_run(seed=1).x)
    assert not (path / "smc" / "particles").exists()
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_posterior_is_not_overwritten(tmp_path):
    folder, file = tmp_path / "work.zarr", tmp_path / "run.zarr"
    folder.mkdir()
    (folder / "thesis.tex").write_text("all of it")
    (tmp_path / "run.nc").mkdir()
    file.write_text("a file")
    for path in (folder, file, tmp_path / "run.nc"):
        with pytest.raises(sg.InvalidInput, match="is not overwritten"):
            gaussian_run().save(path)
    assert (folder / "thesis.tex").read_text() == "all of it" and file.read_text() == "a file"


@pytest.mark.parametrize("name", ["run", "run.h5", "run.npz"])
def test_the_suffix_says_the_format(name, tmp_path):
    with pytest.raises(sg.InvalidInput, match=r"expected one of \.nc, \.nc4, \.netcdf, \.zarr"):
        gaussian_run().save(tmp_path / name)
    with pytest.raises(sg.InvalidInput, match="the suffix says the format"):
        sg.Posterior.load(tmp_path / name)


def test_a_posterior_whose_arrays_do_not_fit_is_not_saved(tmp_path):
    posterior = gaussian_run(systems=2)
    short = {**posterior.trace, "ess": posterior.trace["ess"][:, 1:]}
    bad = {"eves": posterior.eves[:, 1:], "trace": short, "log_z": posterior.log_z[:1]}
    for field, a in bad.items():
        with pytest.raises(sg.InvalidInput, match="do not fit each other: for 2 systems of 20"):
            dataclasses.replace(posterior, **{field: a}).save(tmp_path / "run.nc")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_an_earlier_format_is_refused(tmp_path):
    path = tmp_path / "run.nc"
    gaussian_run().save(path)
    path.write_bytes(path.read_bytes()[:-48])  # such files had no mark at their end
    with h5py.File(path, "a") as file:
        file.attrs["format"] = "smcguide posterior 1"
        del file.attrs["sha256"]
    with pytest.raises(sg.InvalidInput, match=r"this version's .* is 'smcguide posterior 1'"):
        sg.Posterior.load(path)


@pytest.mark.parametrize("name", ["nothing.nc", "nothing.zarr"])
def test_a_missing_file_is_not_found(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=name):
        sg.Posterior.load(tmp_path / name)
