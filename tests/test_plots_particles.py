"""Figures of states: filmstrips, pairs and animations show the states of the run."""

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import smcguide as sg
from smcguide.plots import animate, plot_pairs, plot_posterior, plot_trajectory
from smcguide.plots.film import Film
from smcguide.plots.trajectory import ancestral_line

EVERYTHING = ("particles", "ancestors", "log_weights", "paths")


def posterior(event, systems=None, num_particles=12, record=EVERYTHING):
    """A run of 4 steps that resamples at step 2 and 3."""
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, *event), scale=1.0)
    d = int(np.prod(event))
    model = sg.GuidedDiffusion(
        prior,
        sg.costs.LinearGaussian(torch.eye(d)[:1], torch.ones(1), 0.5),
        kernel=sg.kernels.DDIM(eta=1.0),
        times=sg.grids.karras(4),
        potential=sg.potentials.Tweedie(),
        proposal=sg.proposals.Bootstrap(),
    )
    return sg.run(
        model,
        num_particles=num_particles,
        num_systems=systems,
        trigger=sg.triggers.at_steps([1, 2]),
        record=record,
    )


@pytest.fixture(scope="module")
def plane():
    return posterior((2,), systems=2)


@pytest.fixture(scope="module")
def picture():
    return posterior((1, 4, 5))


@pytest.fixture(scope="module")
def signal():
    return posterior((16,))


def without(post, *names):
    kept = {name: a for name, a in post.recorded.items() if name not in names}
    return dataclasses.replace(post, recorded=kept)


# ---- filmstrips ----------------------------------------------------------------------------------


def test_ancestral_lines_are_the_same_from_paths_and_from_ancestors(plane):
    walked = without(plane, "paths")
    for particle in range(12):
        line = ancestral_line(walked, 1, particle)
        torch.testing.assert_close(line, plane.recorded["paths"][1, :, particle])
    torch.testing.assert_close(line[-1], plane.x[1, 11])


def test_a_filmstrip_of_images_is_the_line_of_the_heaviest(picture):
    axes = plot_trajectory(picture)
    assert [ax.get_title().split("\n")[0] for ax in axes] == [f"step {k}" for k in range(5)]
    best = int(picture.log_w[0].argmax())
    for k, ax in enumerate(axes):
        shown = np.ma.getdata(ax.images[0].get_array())
        np.testing.assert_array_equal(shown, picture.recorded["paths"][0, k, best, 0])
        assert ax.images[0].get_clim() == (shown.min(), shown.max())
    titles = [ax.get_title() for ax in plot_trajectory(picture, num=2)]
    assert titles == ["step 0\nt = 1", "step 4\nt = 0"]


def test_a_vector_leaves_a_line_behind_it(plane):
    axes = plot_trajectory(plane, system=1, particle=3)
    line = plane.recorded["paths"][1, :, 3]
    way, head = axes[2].lines
    np.testing.assert_allclose(np.stack([way.get_xdata(), way.get_ydata()], -1), line[:3])
    np.testing.assert_allclose([head.get_xdata()[0], head.get_ydata()[0]], line[2])


def test_a_signal_is_a_curve_and_a_number_goes_against_the_step(signal):
    axes = plot_trajectory(signal, particle=0, num=3)
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), signal.recorded["paths"][0, 2, 0])
    number = posterior((1,))
    way, _ = plot_trajectory(number, particle=2)[-1].lines
    np.testing.assert_array_equal(way.get_xdata(), range(5))
    np.testing.assert_allclose(way.get_ydata(), number.recorded["paths"][0, :, 2, 0])


def test_without_times_frames_are_named_by_their_step(picture):
    timeless = dataclasses.replace(picture, times=torch.full((5,), torch.nan))
    assert plot_trajectory(timeless)[1].get_title() == "step 1"


def test_filmstrips_refuse_what_is_not_there(picture):
    with pytest.raises(sg.InvalidInput, match=r"recorded \[\'log_weights\', \'particles\'\]"):
        plot_trajectory(without(picture, "paths", "ancestors"))
    with pytest.raises(sg.InvalidInput, match="particle must be one of 0 to 11"):
        plot_trajectory(picture, particle=12)
    with pytest.raises(sg.InvalidInput, match="no system 1"):
        plot_trajectory(picture, system=1)
    with pytest.raises(sg.InvalidInput, match=r"needs axes of shape \(3,\)"):
        plot_trajectory(picture, num=3, axes=Figure().subplots(1, 2))
    axes = Figure().subplots(1, 3)
    assert list(plot_trajectory(picture, num=3, axes=axes)) == list(axes)


# ---- pairs ---------------------------------------------------------------------------------------


def test_pairs_are_points_sized_by_weight(plane):
    log_w = torch.full((2, 12), -torch.inf, dtype=torch.float64)
    log_w[1, 4], log_w[1, 7] = 0.0, np.log(3.0)
    x = plane.x.clone()
    x[1, 0] = torch.nan  # the dead may be anything
    axes = plot_pairs(dataclasses.replace(plane, log_w=log_w, x=x), system=1)
    assert axes.shape == (2, 2) and not axes[0, 1].get_visible()
    points = axes[1, 0].collections[0]
    np.testing.assert_allclose(points.get_offsets(), x[1, [4, 7]])
    small, large = points.get_sizes()
    assert large == pytest.approx(3 * small)
    density, edges, _ = axes[0, 0].patches[0].get_data()
    mass = density * np.diff(edges)
    np.testing.assert_allclose(sorted(mass[mass > 0]), [0.25, 0.75])
    assert [axes[1, 0].get_xlabel(), axes[1, 0].get_ylabel()] == ["x[0]", "x[1]"]
    assert axes[0, 0].get_xlim() == axes[1, 0].get_xlim()
    assert axes[1, 1].get_xlim() == axes[1, 0].get_ylim()


def test_pairs_of_chosen_coordinates_and_parameters(picture):
    scale = torch.arange(12.0)[None]
    post = dataclasses.replace(picture, parameters={"scale": scale, "ab": torch.ones(1, 12, 2)})
    axes = plot_pairs(post, coordinates=["scale", 7])
    np.testing.assert_allclose(
        axes[1, 0].collections[0].get_offsets(),
        torch.stack([scale[0], post.x[0, :, 0, 1, 2]], -1),
    )
    assert axes[1, 0].get_ylabel() == "x[0, 1, 2]"
    bottom = [ax.get_xlabel() for ax in plot_pairs(post)[-1]]
    assert bottom == ["scale", "ab[0]", "ab[1]", "x[0, 0, 0]"]


def test_pairs_refuse_what_is_not_there(picture):
    with pytest.raises(sg.InvalidInput, match="no coordinate 20; there are 0 to 19"):
        plot_pairs(picture, coordinates=[0, 20])
    with pytest.raises(sg.InvalidInput, match="no coordinate 'scale'"):
        plot_pairs(picture, coordinates=["scale"])
    with pytest.raises(sg.InvalidInput, match="coordinates is empty"):
        plot_pairs(picture, coordinates=[])
    with pytest.raises(sg.InvalidInput, match=r"needs axes of shape \(2, 2\)"):
        plot_pairs(picture, coordinates=[0, 1], axes=Figure().subplots(1, 2))


# ---- animations ----------------------------------------------------------------------------------


def frames(path):
    with Image.open(path) as gif:
        return gif.n_frames, gif.info["duration"]


def film(post, signal=None, weighted=True):
    log_w = post.recorded["log_weights"][0] if weighted else None
    return Film(post.recorded["particles"][0], log_w, np.arange(5), signal)


def drawn(film, frame):
    figure = Figure()
    film.draw(figure, frame)
    return figure.axes[0]


def test_a_gif_has_one_frame_per_state(plane, tmp_path):
    path = animate(plane, tmp_path / "plane.gif", fps=10, system=1)
    assert path == tmp_path / "plane.gif" and frames(path) == (5, 100)
    assert frames(animate(plane, tmp_path / "thin.gif", num_frames=3)) == (3, 200)


def test_frames_of_vectors_show_all_particles_coloured_by_weight(plane):
    ax = drawn(film(plane), 2)
    points = ax.collections[0]
    share = 12 * torch.softmax(plane.recorded["log_weights"][0, 2], -1)
    order = share.argsort()
    np.testing.assert_allclose(points.get_offsets(), plane.recorded["particles"][0, 2][order])
    np.testing.assert_allclose(points.get_array(), (share / (1 + share))[order])
    assert drawn(film(plane, weighted=False), 2).collections[0].get_array() is None


def test_axes_of_an_animation_never_widen(plane):
    far = plane.recorded["particles"].clone()
    far[:, 0] *= 50
    far[:, 2] *= 10
    post = dataclasses.replace(plane, recorded={**plane.recorded, "particles": far})
    ends = np.array([drawn(film(post), k).get_xlim() for k in range(5)])
    assert (np.diff(ends[:, 0]) >= 0).all() and (np.diff(ends[:, 1]) <= 0).all()
    assert np.ptp(ends[0]) > 3 * np.ptp(ends[1])
    assert np.ptp(ends[1]) == np.ptp(ends[2]) > 3 * np.ptp(ends[3])


def test_frames_of_images_signals_and_numbers(picture, signal):
    ax = drawn(film(picture), 4)
    assert len(ax.images) == 12
    event = picture.recorded["particles"][0, 4, 5, 0]
    scaled = (event - event.min()) / (event.max() - event.min())
    np.testing.assert_allclose(ax.images[5].get_array(), scaled, atol=1e-6)
    share = 12 * torch.softmax(picture.recorded["log_weights"][0, 4], -1)
    assert [text.get_text() for text in ax.texts] == [f"{w:.2g}" for w in share]
    assert len(drawn(film(signal), 4).lines) == 12
    assert len(drawn(film(signal, signal=False), 4).collections[0].get_offsets()) == 12
    number = posterior((1,))
    density, edges, _ = drawn(film(number), 4).patches[0].get_data()
    middle = (density * np.diff(edges)) @ (edges[1:] + edges[:-1]) / 2
    assert middle == pytest.approx(float(number.mean()[0]), abs=np.diff(edges)[0])


def test_animations_refuse_what_is_not_there(plane, tmp_path):
    with pytest.raises(sg.InvalidInput, match=r'record=\("particles",\)'):
        animate(without(plane, "particles"), tmp_path / "a.gif")
    with pytest.raises(sg.InvalidInput, match=r"path end in .gif; got 5.0 and 'a.mp4'"):
        animate(plane, tmp_path / "a.mp4")
    with pytest.raises(sg.InvalidInput, match="fps must be positive"):
        animate(plane, tmp_path / "a.gif", fps=0)
    with pytest.raises(sg.InvalidInput, match="no system 2"):
        animate(plane, tmp_path / "a.gif", system=2)


@pytest.mark.parametrize("event", [(2,), (16,), (1, 3, 4)])
def test_a_picture_of_constants_does_not_warn(event, tmp_path):
    post = posterior(event, num_particles=4, record=("particles", "ancestors"))
    same = {**post.recorded, "particles": torch.ones_like(post.recorded["particles"])}
    post = dataclasses.replace(post, x=torch.ones_like(post.x), recorded=same)
    for figure in (
        plot_posterior(post),
        plot_pairs(post)[0, 0].figure,
        plot_trajectory(post)[0].figure,
    ):
        figure.savefig(tmp_path / "constant.png", dpi=20)
    assert frames(animate(post, tmp_path / "constant.gif"))[0] == 5


# ---- what is refused -----------------------------------------------------------------------------


def test_parts_of_frames_are_refused(plane, tmp_path):
    with pytest.raises(sg.InvalidInput, match=r"animate: num_frames must be a whole number .* 2.5"):
        animate(plane, tmp_path / "a.gif", num_frames=2.5)
    with pytest.raises(
        sg.InvalidInput, match=r"plot_trajectory: num must be a whole number .* 2.5"
    ):
        plot_trajectory(plane, num=2.5)
    assert not list(tmp_path.iterdir())


def test_animations_need_a_folder_to_be_in(plane, tmp_path):
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(sg.InvalidInput, match=r"animate: cannot write .* no folder '.*missing'"):
        animate(plane, tmp_path / "missing" / "a.gif")
    with pytest.raises(
        sg.InvalidInput, match=r"animate: cannot write .*folder.gif': it is a folder"
    ):
        animate(plane, tmp_path / "folder.gif")


@pytest.mark.parametrize("what", [torch.nan, torch.inf])
def test_pairs_and_filmstrips_leave_out_what_is_not_finite(plane, what):
    x, paths = plane.x.clone(), plane.recorded["paths"].clone()
    x[0, 3, 0], x[0, :, 1] = what, what
    paths[0, 2, :, 0] = what
    broken = dataclasses.replace(plane, x=x, recorded={**plane.recorded, "paths": paths})
    axes = plot_pairs(broken)
    axes[0, 0].figure.draw_without_rendering()
    assert not axes[0, 0].texts
    assert [text.get_text() for text in axes[1, 1].texts] == ["no finite values"]
    low, high = axes[0, 0].get_xlim()
    seen = x[0, :, 0][x[0, :, 0].isfinite() & (plane.log_w[0] > -torch.inf)]
    assert low <= float(seen.min()) and float(seen.max()) <= high < float(seen.max()) + 5
    plot_trajectory(broken)[0].figure.draw_without_rendering()
