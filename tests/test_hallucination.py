"""Predictions of the clean event: recorded, followed along lines of descent, and what they betray."""

import functools

import pytest
import torch
from torch import nn

import smcguide as sg
from smcguide.diagnostics.hallucination import hallucination
from smcguide.errors import InvalidInput
from smcguide.testing.statistics import seed

F64 = torch.float64
MODES, STD = torch.tensor([[-1.0], [0.0], [1.0]]), 0.05
PRIOR = sg.priors.GaussianMixture(
    torch.ones(2), torch.tensor([[-1.0, 0], [1, 0]], dtype=F64), scale=0.3
)
COST = sg.costs.LinearGaussian(torch.eye(2, dtype=F64), torch.zeros(2, dtype=F64), 0.5)
BOTH = ("x0_hat", "ancestors")


def run(cost=COST, **options):
    options = {"num_particles": 16, "num_steps": 8, "trigger": sg.triggers.always(), **options}
    return sg.sample(PRIOR, cost, progress=False, **options)


def trained(width=64, steps=1500, batch=512):
    """A small network that has learned to denoise three narrow Gaussians (EDM preconditioning)."""
    g = torch.Generator().manual_seed(0)
    layers = [
        nn.Linear(2, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, 1),
    ]
    net = nn.Sequential(*layers)
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=g)
        nn.init.normal_(layer.bias, std=0.5, generator=g)
    sd = float(MODES.var(correction=0) + STD**2) ** 0.5
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    for i in range(steps):
        optimiser.param_groups[0]["lr"] = 5e-3 * (1 - i / steps)
        x0 = MODES[torch.randint(3, (batch,), generator=g)]
        x0 = x0 + STD * torch.randn(batch, 1, generator=g)
        lam = torch.exp(-1.2 + 1.3 * torch.randn(batch, 1, generator=g))
        x = x0 + lam * torch.randn(batch, 1, generator=g)
        norm = (lam**2 + sd**2).sqrt()
        out = net(torch.cat([2 * x / norm, lam.log() / 2], 1))
        loss = (out - (x0 - (sd / norm) ** 2 * x) * norm / (lam * sd)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.requires_grad_(False)
    return sg.priors.NetworkPrior(
        lambda x, t: net(torch.cat([2 * x, 2 * t[:, None]], 1)),
        sg.schedules.VP(), "edm", (1,), sigma_data=sd,
    )  # fmt: skip


def area_under_roc(score, positive):
    """P(score of a positive > score of a negative)."""
    rank = torch.empty_like(score).index_copy(0, score.argsort(), torch.arange(1.0, len(score) + 1))
    n = positive.sum()
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (~positive).sum()))


def test_particles_between_modes_are_told_by_their_restless_predictions():
    prior = trained()
    post = sg.sample(
        prior, lambda x: 0.3 * x[:, 0].square(), num_particles=10_000, kernel=sg.kernels.DDIM(1.0),
        potential=sg.potentials.Tweedie(), proposal=sg.proposals.Bootstrap(),
        trigger=sg.triggers.ess_below(0.99), record=BOTH, seed=seed("between"), progress=False,
    )  # fmt: skip
    assert post.trace["resampled"].any()
    between = (post.particles - MODES[:, 0]).abs().min(1).values > 6 * STD
    assert 20 < int(between.sum()) < 500
    assert area_under_roc(hallucination(post).float(), between) > 0.9
    assert area_under_roc(hallucination(post, last=0.5).float(), between) < 0.5


@pytest.mark.parametrize("systems", [None, 3])
def test_each_prediction_is_the_denoiser_at_the_recorded_state(systems):
    post = run(num_systems=systems, record=("x0_hat", "particles"))
    states, predictions = post.recorded["particles"], post.recorded["x0_hat"]
    assert predictions.shape == states.shape
    for k, t in enumerate(post.times[:-1]):
        flat = PRIOR.denoise(states[:, k].flatten(0, 1), float(t))
        torch.testing.assert_close(predictions[:, k].flatten(0, 1), flat)
    assert torch.equal(predictions[:, -1], post.x)


def test_iterate_keeps_predictions_too():
    model = sg.model(PRIOR, COST, num_steps=4)
    for particles, info in sg.iterate(model, num_particles=8, record=("x0_hat",)):
        assert info.recorded["x0_hat"].shape == particles.x.shape


def test_variance_is_taken_along_the_line_of_descent():
    post = run(num_systems=2, record=BOTH)
    found = hallucination(post, last=0.5)
    predictions, ancestors = post.recorded["x0_hat"], post.recorded["ancestors"]
    for s in range(2):
        for i in range(16):
            line, seen = i, []
            for k in range(7, 3, -1):
                line = int(ancestors[s, k + 1, line])
                seen.append(predictions[s, k, line])
            expected = torch.stack(seen).var(0, correction=0).mean()
            torch.testing.assert_close(found[s, i], expected)


def test_answers_carry_the_axis_of_systems_only_where_systems_were_asked_for():
    assert hallucination(run(record=BOTH)).shape == (16,)
    assert hallucination(run(num_systems=2, record=BOTH)).shape == (2, 16)


def test_nothing_resampled_needs_no_ancestors():
    post = run(trigger=sg.triggers.never(), record=BOTH)
    alone = run(trigger=sg.triggers.never(), record=("x0_hat",))
    assert torch.equal(hallucination(post), hallucination(alone))


def test_predictions_survive_a_file(tmp_path):
    post = run(num_systems=2, record=BOTH)
    post.save(tmp_path / "run.nc")
    again = sg.Posterior.load(tmp_path / "run.nc")
    assert torch.equal(again.recorded["x0_hat"], post.recorded["x0_hat"])
    assert torch.equal(hallucination(again), hallucination(post))


def test_missing_records_are_asked_for():
    with pytest.raises(InvalidInput, match=r"did not record \['x0_hat', 'ancestors'\]"):
        hallucination(run())
    with pytest.raises(InvalidInput, match=r"did not record \['ancestors'\]"):
        hallucination(run(record=("x0_hat",)))
    with pytest.raises(InvalidInput, match="last must be"):
        hallucination(run(record=BOTH), last=15)
    with pytest.raises(InvalidInput, match="one step"):
        hallucination(run(record=BOTH, num_steps=None, times=torch.tensor([1.0, 0.0])))


class Walk(sg.FeynmanKac):
    num_steps, event_shape = 2, (1,)

    def initial(self, shape, generator):
        x = torch.randn(*shape, 1, generator=generator)
        return sg.Propagated(x, torch.zeros(shape))

    def step(self, k, x, carry, generator):
        return sg.Propagated(x, torch.zeros(x.shape[:2]))


def test_a_model_without_predictions_cannot_record_them():
    with pytest.raises(InvalidInput, match="carries no predictions"):
        sg.run(Walk(), num_particles=4, record=("x0_hat",))
    calls = []
    with pytest.raises(InvalidInput, match="has no paths"):
        run(
            cost=lambda x: calls.append(len(x)) or x[:, 0], record=("x0_hat",),
            proposal=sg.proposals.Bootstrap(), potential=sg.potentials.Terminal(),
            wrap=functools.partial(sg.Candidates, num=2),
        )  # fmt: skip
    assert max(calls) <= 2  # the dry run's
