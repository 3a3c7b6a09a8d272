"""A damaged file never yields numbers: it raises InvalidInput, or the damage is where no number is."""

import dataclasses
import json
import random
import re
import shutil

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

import smcguide as sg
from smcguide.bridges.datasets import datasets
from smcguide.bridges.seal import sealed

MARK = 48  # bytes after the end of the netCDF


@pytest.fixture(scope="module")
def posterior():
    """Two replicates with records and a parameter."""
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 2).double(), scale=1.0)
    cost = sg.costs.ParametricFunction(
        lambda x, sigma: (x / sigma[:, None]).square().sum(-1),
        {"sigma": torch.distributions.LogNormal(0.0, 0.5)},
    )
    return sg.sample(
        prior, cost, num_particles=16, num_systems=2, num_steps=4, record=("ancestors",),
        potential=sg.potentials.Tweedie(), progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(posterior, tmp_path_factory):
    """An undamaged file of each format."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("run.nc", "run.zarr"):
        posterior.save(folder / name)
    return folder


@pytest.fixture
def path(whole, tmp_path):
    """A netCDF file to be damaged."""
    return shutil.copy(whole / "run.nc", tmp_path / "run.nc")


@pytest.fixture
def unmarked(path):
    """The same without the checksum of its bytes, as other programs leave a file that they change."""
    path.write_bytes(path.read_bytes()[:-MARK])
    return path


@pytest.fixture
def store(whole, tmp_path):
    """A zarr store to be damaged."""
    return shutil.copytree(whole / "run.zarr", tmp_path / "run.zarr")


def bits(posterior):
    """All that a posterior holds, as comparable values."""

    def plain(a):
        if isinstance(a, torch.Tensor):
            return str(a.dtype), tuple(a.shape), a.contiguous().numpy().tobytes()
        return {name: plain(v) for name, v in a.items()} if isinstance(a, dict) else a

    return {f.name: plain(getattr(posterior, f.name)) for f in dataclasses.fields(posterior)}


def raises(path):
    """Whether a load raises InvalidInput; every other error is the test's."""
    try:
        sg.Posterior.load(path)
    except sg.InvalidInput:
        return True
    return False


def flips(files, num, seed):
    """Each time another bit of the files is wrong."""
    rng = random.Random(seed)
    places = [(file, i) for file in files for i in range(file.stat().st_size)]
    for file, i in rng.sample(places, num):
        good = file.read_bytes()
        bad = bytearray(good)
        bad[i] ^= 1 << rng.randrange(8)
        file.write_bytes(bad)
        yield
        file.write_bytes(good)


def test_a_wrong_bit_of_a_file_is_seen_before_it_is_parsed(path):
    for _ in flips([path], 60, seed=1):
        with pytest.raises(sg.InvalidInput, match="its bytes do not match their checksum"):
            sg.Posterior.load(path)


def test_a_wrong_bit_of_the_mark_raises_or_changes_nothing(posterior, path):
    whole, refused = path.read_bytes(), 0
    for i in range(1, MARK + 1, 4):
        bad = bytearray(whole)
        bad[-i] ^= 1
        path.write_bytes(bad)
        if raises(path):
            refused += 1
        else:
            assert bits(sg.Posterior.load(path)) == bits(posterior)
    assert refused == 8  # of the 32 bytes of the digest, every fourth


def test_a_wrong_bit_of_a_store_raises_or_changes_nothing(posterior, store):
    files, refused = sorted(f for f in store.rglob("*") if f.is_file()), 0
    for _ in flips(files, 40, seed=2):
        if raises(store):
            refused += 1
        else:
            assert bits(sg.Posterior.load(store)) == bits(posterior)
    assert refused > 5
    assert bits(sg.Posterior.load(store)) == bits(posterior)


def test_without_the_mark_a_wrong_bit_in_any_array_is_seen(posterior, unmarked):
    places = {}

    def collect(name, a):
        if isinstance(a, h5py.Dataset) and not a.is_scale:
            places[name] = a.id.get_offset()

    with h5py.File(unmarked) as file:
        file.visititems(collect)
    good = unmarked.read_bytes()
    assert bits(sg.Posterior.load(unmarked)) == bits(posterior)
    assert len(places) > 20
    for offset in places.values():
        bad = bytearray(good)
        bad[offset] ^= 1
        unmarked.write_bytes(bad)
        with pytest.raises(sg.InvalidInput, match="its numbers do not match their checksum"):
            sg.Posterior.load(unmarked)


@pytest.mark.parametrize("tenths", range(10))
def test_a_truncated_file_is_refused(tenths, path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * tenths // 10])
    with pytest.raises(sg.InvalidInput, match="is not a netCDF 4 file, or is damaged"):
        sg.Posterior.load(path)


def test_a_file_that_lacks_its_last_bytes_raises_or_is_whole(posterior, path):
    whole = path.read_bytes()
    for lost in (1, 16, MARK, MARK + 1, MARK + 8):
        path.write_bytes(whole[:-lost])
        if lost > MARK:
            assert raises(path)
        elif not raises(path):
            assert bits(sg.Posterior.load(path)) == bits(posterior)


def test_a_truncated_store_is_refused(store):
    arrays = [
        file for file in store.rglob("*")
        if file.name[0].isdigit() and not re.search(r"_dim_|chain|draw|step|/particle", str(file.parent))
    ]  # fmt: skip
    assert len(arrays) > 15
    for file in [store / ".zmetadata", *arrays]:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(sg.InvalidInput, match="damaged"):
            sg.Posterior.load(store)
        file.write_bytes(whole)


def test_a_lost_chunk_is_not_a_zero(store):
    """zarr reads a missing chunk as zeros without a word."""
    (store / "weighted_posterior" / "x0" / "0.0.0").unlink()
    assert np.isfinite(
        xr.load_dataset(store, group="weighted_posterior", engine="zarr")["x0"]
    ).all()
    with pytest.raises(sg.InvalidInput, match="do not match their checksum"):
        sg.Posterior.load(store)


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_an_empty_file_is_refused(suffix, tmp_path):
    (tmp_path / "run.nc").touch()
    (tmp_path / "run.zarr").mkdir()
    with pytest.raises(sg.InvalidInput, match=f"run.{suffix}' is not a .*, or is damaged"):
        sg.Posterior.load(tmp_path / f"run.{suffix}")


def test_a_text_file_is_refused(tmp_path):
    (tmp_path / "notes.nc").write_text("no posterior")
    with pytest.raises(sg.InvalidInput, match=r"notes\.nc' is not a netCDF 4 file"):
        sg.Posterior.load(tmp_path / "notes.nc")


def test_a_folder_or_file_of_the_other_format_is_refused(path, store, tmp_path):
    for wrong in (path.rename(tmp_path / "file.zarr"), store.rename(tmp_path / "folder.nc")):
        assert raises(wrong)


def test_a_file_of_another_library_is_refused_saying_what_it_holds(tmp_path):
    posterior = xr.Dataset({"mu": (("chain", "draw"), np.zeros((4, 10)))})
    about = {"created_at": "2026", "inference_library": "other", "inference_library_version": "1"}
    for suffix, engine in ((".nc", "h5netcdf"), (".zarr", "zarr")):
        tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs=about), "posterior": posterior})
        path = tmp_path / f"other{suffix}"
        tree.to_netcdf(path, engine=engine) if suffix == ".nc" else tree.to_zarr(
            path, zarr_format=2
        )
        with pytest.raises(sg.InvalidInput, match=r"is None\. Attributes found: \['created_at', "):
            sg.Posterior.load(path)


@pytest.mark.parametrize(
    "place", ["posterior", "smc", "weighted_posterior", "smc/time", "weighted_posterior/x0"]
)
def test_what_is_missing_is_named(place, unmarked):
    with h5py.File(unmarked, "a") as file:
        del file[place]
    with pytest.raises(sg.InvalidInput, match=f"is damaged: it lacks {place}"):
        sg.Posterior.load(unmarked)


@pytest.mark.parametrize("name", ["sha256", "evaluations", "settings", "flags"])
def test_a_missing_attribute_is_named(name, unmarked):
    with h5py.File(unmarked, "a") as file:
        del file.attrs[name]
    with pytest.raises(sg.InvalidInput, match=f"it lacks attribute {name}"):
        sg.Posterior.load(unmarked)


def test_a_trace_that_is_gone_is_seen(unmarked):
    with h5py.File(unmarked, "a") as file:
        del file["smc/ess"]
    with pytest.raises(sg.InvalidInput, match="do not match their checksum"):
        sg.Posterior.load(unmarked)


def test_settings_that_were_changed_are_seen(unmarked):
    with h5py.File(unmarked, "a") as file:
        settings = json.loads(file.attrs["settings"])
        file.attrs["settings"] = json.dumps({**settings, "seed": 7})
    with pytest.raises(sg.InvalidInput, match="do not match their checksum"):
        sg.Posterior.load(unmarked)


def test_arrays_that_do_not_fit_are_refused_whatever_the_checksum(posterior, tmp_path):
    """A program that writes files of this format itself can write nonsense under a good checksum."""
    parts = datasets(posterior)
    other = parts["smc"].isel(chain=[0])
    tree = xr.DataTree.from_dict(sealed({**parts, "smc": other}))
    tree.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    with pytest.raises(sg.InvalidInput, match=r"log_z \(1,\), expected \(2,\) first; bound"):
        sg.Posterior.load(tmp_path / "run.nc")


def test_groups_that_others_add_do_no_harm(posterior, path):
    more = xr.Dataset({"score": ("chain", [1.0, 2.0])})
    more.to_netcdf(path, mode="a", group="notes", engine="h5netcdf")
    assert bits(sg.Posterior.load(path)) == bits(posterior)


@pytest.mark.parametrize(("attribute", "value"), [("role", "recorded"), ("name", "wealth")])
def test_what_a_variable_is_said_to_be_is_sealed(attribute, value, unmarked):
    with h5py.File(unmarked, "a") as file:
        file["smc/ess"].attrs[attribute] = value
    with pytest.raises(sg.InvalidInput, match="do not match their checksum"):
        sg.Posterior.load(unmarked)


@pytest.mark.parametrize("what", ["names", "values"])
def test_exchanged_traces_are_seen(what, unmarked):
    """Else the effective sample size would load as log Z."""
    with h5py.File(unmarked, "a") as file:
        a, b = file["smc/ess"], file["smc/log_evidence_trace"]
        if what == "names":
            a.attrs["name"], b.attrs["name"] = b.attrs["name"], a.attrs["name"]
        else:
            a[...], b[...] = b[...], a[...]
    with pytest.raises(sg.InvalidInput, match="do not match their checksum"):
        sg.Posterior.load(unmarked)


@pytest.mark.parametrize("name", ["run.nc", "run.zarr"])
def test_a_folder_that_is_not_there_is_named_before_any_work(name, posterior, tmp_path):
    nonsense = dataclasses.replace(posterior, log_z=posterior.log_z[:1])  # refused by a later look
    with pytest.raises(
        sg.InvalidInput, match=r"save: cannot write .* there is no folder '.*missing'"
    ):
        nonsense.save(tmp_path / "missing" / name)
    assert not list(tmp_path.iterdir())
