"""Bad input: a clear error before the first network call, or `DegenerateWeights` at run time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import smcguide as sg
from smcguide.costs import GaussianLikelihood, LinearGaussian, TerminalCost
from smcguide.grids import karras
from smcguide.potentials import InflatedGaussian, Potential, Terminal, Tweedie
from smcguide.priors import GaussianMixture, NetworkPrior, Prior
from smcguide.proposals import DTM, Bootstrap, Gradient
from smcguide.records import Look
from smcguide.resamplers import Systematic
from smcguide.schedules import VP
from smcguide.triggers import Trigger, always, at_steps, ess_below, never

F64 = torch.float64
NAN, INF = math.nan, math.inf
A = torch.tensor([[1.0, 0.5], [0.0, 1.0], [2.0, 0.0]], dtype=F64)  # three numbers of a 2-vector
Y = torch.tensor([0.3, -0.2, 0.5], dtype=F64)
MASK = torch.tensor([True, False])


class Watched(GaussianMixture):
    """A mixture around (4, 0) that remembers how many events its denoiser was asked about."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.asked: list[int] = []
        super().__init__(*args, **kwargs)

    def denoise(self, x: Tensor, t: float) -> Tensor:
        self.asked.append(len(x))
        return super().denoise(x, t)


@pytest.fixture
def prior() -> Watched:
    return Watched(torch.ones(2), torch.tensor([[4.0, 0.0], [4.0, 1.0]], dtype=F64), scale=1.0)


def good(**change: Any) -> LinearGaussian:
    return LinearGaussian(**{"operator": A, "y": Y, "noise_std": 0.5} | change)


def square(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def by_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(np.square(x.numpy()).sum(-1))


def detached(x: Tensor) -> Tensor:
    return square(x.detach())


def explicit(prior: Prior, cost: Any, **change: Any) -> sg.GuidedDiffusion:
    parts = {
        "kernel": sg.kernels.DDPM(), "times": karras(5),
        "potential": Tweedie(), "proposal": Bootstrap(),
    }  # fmt: skip
    return sg.GuidedDiffusion(prior, cost, **parts | change)


def run(prior: Prior, cost: Any, **change: Any) -> sg.Posterior:
    steps = {} if "times" in change else {"num_steps": 4}
    return sg.sample(prior, cost, **{"num_particles": 8, "progress": False} | steps | change)


def test_good_input_is_the_other_side_of_every_refusal(prior: Watched) -> None:
    posterior = run(prior, good(), num_systems=2, record=["particles"])
    assert posterior.mean().shape == (2, 2)
    assert sum(prior.asked) > 8, "the prior must notice calls, or the tests below show nothing"


class Scaled:
    """An operator 2 x -> y with a chosen adjoint."""

    def __init__(self, adjoint: Callable[[Tensor], Tensor], limit: float = INF) -> None:
        self.adjoint, self.limit = adjoint, limit

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.clamp(-self.limit, self.limit)


def double(y: Tensor) -> Tensor:
    return 2 * y


OBSERVED = torch.tensor([0.3, -0.2], dtype=F64)


def test_a_right_operator_is_not_refused(prior: Watched) -> None:
    as_object = run(prior, LinearGaussian(Scaled(double), OBSERVED, 0.5))
    as_matrix = run(prior, LinearGaussian(2 * torch.eye(2, dtype=F64), OBSERVED, 0.5))
    torch.testing.assert_close(as_object.log_evidence, as_matrix.log_evidence)


LIKELIHOODS: dict[str, tuple[Callable[[], Any], str]] = {
    "y too short for the matrix": (lambda: good(y=Y[:2]), r"\(2,\) does not fit .*\(3, 2\)"),
    "y a scalar": (lambda: good(y=Y[0]), r"shape \(\) does not fit"),
    "batch not declared": (lambda: good(y=Y.repeat(4, 1)), r"\(4, 3\) per .*say batched=True"),
    "batch declared and missing": (lambda: good(batched=True), r"y is \(\) per system"),
    "batch of a scalar": (
        lambda: GaussianLikelihood(square, Y[0], 0.5, batched=True),
        r"leading axis of systems, got a scalar",
    ),
    "matrix too wide": (lambda: good(operator=torch.ones(3, 5)), r"fails on a batch .*\(2, 2\)"),
    "mask of another event": (
        lambda: LinearGaussian(torch.ones(3, dtype=torch.bool), Y, 0.5),
        r"mask has shape \(3,\), events have \(2,\)",
    ),
    "y of another shape than the mask": (
        lambda: LinearGaussian(MASK, Y, 0.5),
        r"\(3,\) \(batched=False\) does not fit the mask's \(2,\)",
    ),
    "mask with a batch not declared": (
        lambda: LinearGaussian(MASK, OBSERVED.repeat(4, 1), 0.5),
        r"\(4, 2\) \(batched=False\) does not fit",
    ),
    "forward of another shape than y": (
        lambda: GaussianLikelihood(lambda x: x.exp(), Y, 0.5),
        r"maps events \(2,\) to \(2,\), but y is \(3,\)",
    ),
    "forward that fails": (
        lambda: GaussianLikelihood(lambda x: x @ torch.ones(7, 3, dtype=F64), Y, 0.5),
        r"fails on a batch of events",
    ),
    "NaN in y": (lambda: good(y=torch.tensor([0.3, NAN, NAN])), r"2 NaN or infinite .* of 3"),
    "NaN under the mask": (
        lambda: LinearGaussian(MASK, torch.tensor([NAN, 1.0]), 0.5),
        r"1 NaN or infinite .* boolean mask",
    ),
    "infinite y": (lambda: good(y=torch.tensor([0.3, INF, 0.1])), r"1 NaN or infinite"),
    "noise_std zero": (lambda: good(noise_std=0.0), r"positive and finite.*small positive"),
    "noise_std negative": (lambda: good(noise_std=-1.0), r"positive and finite"),
    "noise_std NaN": (lambda: good(noise_std=NAN), r"positive and finite"),
    "noise_std infinite": (lambda: good(noise_std=INF), r"positive and finite"),
    "one noise_std zero": (
        lambda: good(noise_std=torch.tensor([1.0, 0.0, 1.0])),
        r"smallest value of 0",
    ),
    "noise_std of another shape": (lambda: good(noise_std=torch.ones(2)), r"shape \(2,\).*\(3,\)"),
    "operator of integers": (lambda: good(operator=torch.ones(3, 2).long()), r"dtype torch.int64"),
    "operator with three axes": (lambda: good(operator=torch.ones(3, 2, 1)), r"shape \(3, 2, 1\)"),
    "operator without adjoint": (lambda: good(operator=square), r"function; .*GaussianLikelihood"),
    "adjoint of another operator": (
        lambda: LinearGaussian(Scaled(lambda y: 3 * y), OBSERVED, 0.5),
        r"adjoint does not match its forward map: <A x, y> = ",
    ),
    "adjoint of another shape": (
        lambda: LinearGaussian(Scaled(lambda y: y[:, :1]), OBSERVED, 0.5),
        r"adjoint maps \(2, 2\) to \(2, 1\)",
    ),
    "operator not linear": (
        lambda: LinearGaussian(Scaled(double, limit=3.0), OBSERVED, 0.5),
        r"not linear.*GaussianLikelihood",
    ),
    "sum of different batches": (
        lambda: good(y=Y.repeat(2, 1), batched=True) + good(y=Y.repeat(3, 1), batched=True),
        r"different numbers of systems: \[2, 3\]",
    ),
    "a number": (lambda: 3.0, r"got float; expected a TerminalCost or a function"),
    "a tensor": (lambda: Y, r"got Tensor; expected a TerminalCost"),
    "a function of one number": (lambda: torch.sum, r"returned \(\); .*a tensor \(\d+,\)"),
    "a function of columns": (lambda: lambda x: square(x)[:, None], r"returned \(\d+, 1\)"),
    "a function of coordinates": (lambda: lambda x: x.square(), r"returned \(\d+, 2\)"),
    "a function of arrays": (
        lambda: lambda x: np.square(x.detach().numpy()).sum(-1),
        r"returned ndarray",
    ),
    "a function without result": (lambda: lambda x: None, r"returned NoneType"),
    "NaN everywhere": (lambda: lambda x: square(x) * NAN, r"is \[nan, nan\] .*must not be NaN"),
    "minus infinity": (lambda: lambda x: square(x) - INF, r"is \[-inf, -inf\]"),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("build", [run, explicit], ids=["sample", "GuidedDiffusion"])
def test_costs_are_refused_before_the_network(
    name: str, build: Callable[..., Any], prior: Watched
) -> None:
    make, message = LIKELIHOODS[name]
    with pytest.raises(sg.InvalidInput, match=rf"(?s){message}"):
        build(prior, make())
    assert prior.asked == []


class Transposed(TerminalCost):
    """A cost (N, S) where (S, N) is asked for."""

    num_systems = 3

    def __call__(self, x0: Tensor) -> Tensor:
        return x0.square().sum(-1).mT


MIXED = good(y=Y.repeat(4, 1), batched=True)

# arguments that are wrong for sample(prior, cost, **arguments)
ARGUMENTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no particles": (good(), {"num_particles": 0}, r"num_particles .* at least 1, got 0"),
    "minus one particle": (good(), {"num_particles": -1}, r"num_particles .* got -1"),
    "half a particle": (good(), {"num_particles": 8.5}, r"num_particles must be a whole .* 8\.5"),
    "no systems": (good(), {"num_systems": 0}, r"num_systems .* at least 1, got 0"),
    "other systems than y": (MIXED, {"num_systems": 3}, r"num_systems=3, .* each of 4 systems"),
    "one system of a batch": (MIXED, {"num_systems": 1}, r"num_systems=1, .* each of 4 systems"),
    "no chunk": (good(), {"chunk_size": 0}, r"chunk_size must be at least 1 or None, got 0"),
    "negative chunk": (good(), {"chunk_size": -4}, r"chunk_size must be at least 1"),
    "half precision": (good(), {"dtype": torch.float16}, r"float32 or torch.float64, got .*16"),
    "bfloat16": (good(), {"dtype": torch.bfloat16}, r"got torch\.bfloat16.*half-precision net"),
    "whole numbers": (good(), {"dtype": torch.int64}, r"got torch\.int64"),
    "increasing times": (good(), {"times": [0.0, 0.5, 1.0]}, r"strictly decreasing times"),
    "times that stop early": (good(), {"times": [1.0, 0.5, 0.1]}, r"the last exactly 0"),
    "repeated times": (good(), {"times": [1.0, 0.5, 0.5, 0.0]}, r"strictly decreasing times"),
    "a single time": (good(), {"times": [0.0]}, r"at least two strictly decreasing"),
    "two axes of times": (good(), {"times": torch.ones(2, 2)}, r"at least two strictly decreas"),
    "NaN times": (good(), {"times": [1.0, NAN, 0.0]}, r"strictly decreasing times"),
    "times beyond the noise": (good(), {"times": [1.5, 0.5, 0.0]}, r"first at most 1\.0 .*VP"),
    "one step": (good(), {"num_steps": 1}, r"at least 2 steps, got num_steps=1"),
    "no step": (good(), {"num_steps": 0}, r"at least 2 steps, got num_steps=0"),
    "unknown record": (good(), {"record": ["weights"]}, r"unknown names \['weights'\]; there are"),
    "progress in words": (good(), {"progress": "yes"}, r"'auto' or a function, got 'yes'"),
    "numpy and DTM": (by_numpy, {"proposal": DTM()}, r"DTM.*by_numpy.*proposals\.Bootstrap"),
    "numpy and Gradient": (by_numpy, {"proposal": Gradient()}, r"cannot be differentiated"),
    "detached and DTM": (detached, {"proposal": DTM()}, r"DTM.*cost detached, which cannot be"),
    "detached and Gradient": (detached, {"proposal": Gradient()}, r"cannot be differentiated"),
    "inflated plain cost": (
        square,
        {"potential": InflatedGaussian()},
        r"LinearGaussian or GaussianLikelihood cost, got square.*Tweedie",
    ),
    "inflated guide of a plain cost": (
        square,
        {"proposal": DTM(guide=InflatedGaussian())},
        r"LinearGaussian or GaussianLikelihood cost, got square",
    ),
    "a width for a non-linear cost": (
        GaussianLikelihood(lambda x: x.exp(), OBSERVED, 0.5),
        {"potential": InflatedGaussian(1.0)},
        r"InflatedGaussian\(1\.0\) needs a linear measurement",
    ),
    "Gauss-Newton of a plain cost": (
        square,
        {"proposal": DTM(solver="gauss_newton")},
        r"needs a least-squares value",
    ),
    "eta = 0 and DTM": (
        good(),
        {"kernel": sg.kernels.DDIM(0.0), "proposal": DTM()},
        r"DDIM\(eta=0\.0.*no noise in the step from time .*DTM.*eta > 0",
    ),
    "eta = 0 and Gradient": (
        square,
        {"kernel": sg.kernels.DDIM(0.0), "proposal": Gradient()},
        r"no noise in the step .*Gradient.*Bootstrap",
    ),
    "axes exchanged": (Transposed(), {}, r"maps \(3, 2, 2\) to \(2, 3\); expected \(3, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_are_refused_before_the_network(name: str, prior: Watched) -> None:
    cost, arguments, message = ARGUMENTS[name]
    with pytest.raises(sg.InvalidInput, match=rf"(?s){message}"):
        run(prior, cost, **arguments)
    assert prior.asked == []


@pytest.mark.parametrize("start", [sg.run, sg.iterate])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_particles": 0}, r"num_particles must be a whole number"),
        ({"num_systems": 0}, r"num_systems must be a whole number"),
        ({"num_systems": 2}, r"each of 4 systems"),
        ({"record": ["weights", "x"]}, r"unknown names \['weights', 'x'\]"),
    ],
)
def test_run_and_iterate_refuse_at_once(
    start: Callable[..., Any], arguments: dict[str, Any], message: str, prior: Watched
) -> None:
    model = explicit(prior, MIXED)
    with pytest.raises(sg.InvalidInput, match=message):
        start(model, **arguments)
    assert prior.asked == []


MEANS = torch.zeros(3, 2)

PARTS: dict[str, tuple[Callable[[], Any], str]] = {
    "two weights, three means": (
        lambda: GaussianMixture(torch.ones(2), MEANS, scale=1.0),
        r"3 nonnegative numbers.*\(3, 2\).*\(2,\)",
    ),
    "weights with two axes": (
        lambda: GaussianMixture(torch.ones(3, 1), MEANS, scale=1.0),
        r"got shape \(3, 1\)",
    ),
    "a negative weight": (
        lambda: GaussianMixture(torch.tensor([1.0, -1.0, 1.0]), MEANS, scale=1.0),
        r"nonnegative",
    ),
    "a NaN weight": (
        lambda: GaussianMixture(torch.tensor([1.0, NAN, 1.0]), MEANS, scale=1.0),
        r"nonnegative",
    ),
    "weights all zero": (
        lambda: GaussianMixture(torch.zeros(3), MEANS, scale=1.0),
        r"weights must be 3",
    ),
    "neither covariance nor scale": (
        lambda: GaussianMixture(torch.ones(3), MEANS),
        r"either covariances or scale",
    ),
    "covariance and scale": (
        lambda: GaussianMixture(torch.ones(3), MEANS, torch.eye(2), 1.0),
        r"either covariances or scale",
    ),
    "a negative scale": (
        lambda: GaussianMixture(torch.ones(3), MEANS, scale=-1.0),
        r"scale must be >= 0",
    ),
    "two scales, three means": (
        lambda: GaussianMixture(torch.ones(3), MEANS, scale=torch.ones(2)),
        r"a float or \(3,\)",
    ),
    "a covariance too large": (
        lambda: GaussianMixture(torch.ones(3), MEANS, torch.eye(3)),
        r"must be \(2, 2\) or \(3, 2, 2\).*got \(3, 3\)",
    ),
    "two covariances, three means": (
        lambda: GaussianMixture(torch.ones(3), MEANS, torch.eye(2).repeat(2, 1, 1)),
        r"got \(2, 2, 2\)",
    ),
    "a covariance not positive": (
        lambda: GaussianMixture(torch.ones(3), MEANS, torch.tensor([[1.0, 2.0], [2.0, 1.0]])),
        r"eigenvalue -1",
    ),
    "means in half precision": (
        lambda: GaussianMixture(torch.ones(3), MEANS.half(), scale=1.0),
        r"GaussianMixture: .*got torch\.float16",
    ),
    "moved to half precision": (
        lambda: GaussianMixture(torch.ones(3), MEANS, scale=1.0).to(dtype=torch.bfloat16),
        r"GaussianMixture\.to: .*got torch\.bfloat16",
    ),
    "a network prior in half precision": (
        lambda: NetworkPrior(torch.nn.Identity(), VP(), "sample", (2,), dtype=torch.float16),
        r"NetworkPrior: .*keep the network's parameters in half precision",
    ),
    "an unknown prediction": (
        lambda: NetworkPrior(torch.nn.Identity(), VP(), "noise", (2,)),
        r"unknown prediction 'noise'; use one of \('epsilon'",
    ),
    "an unknown embedded prior": (lambda: sg.priors.load("faces"), r"no embedded prior 'faces'"),
    "eta above one": (lambda: sg.kernels.DDIM(1.5), r"eta must be in \[0, 1\], got 1\.5"),
    "an unknown objective": (lambda: DTM(objective="elbo"), r"objective must be 'kl', 'ndtm'"),
    "an unknown solver": (lambda: DTM(solver="lbfgs"), r"solver 'sgd', 'adam'"),
    "no iteration": (lambda: DTM(num_iters=0), r"num_iters at least 1"),
    "a grid of one step": (lambda: karras(1), r"at least 2 steps"),
    "a trailing grid without a table": (
        lambda: sg.grids.trailing(5)(VP()),
        r"trailing\(5\) needs a DDPMTable.*got VP",
    ),
    "an ESS of nothing": (lambda: ess_below(0.0), r"fraction must be in \(0, 1\], got 0\.0"),
    "an ESS above N": (lambda: ess_below(1.5), r"got 1\.5"),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_refuse_to_be_built(name: str) -> None:
    make, message = PARTS[name]
    with pytest.raises(sg.InvalidInput, match=rf"(?s){message}"):
        make()


def test_a_prior_of_ones_own_in_half_precision_is_refused() -> None:
    class Half(Prior):
        schedule, event_shape = VP(), (2,)
        dtype, device = torch.float16, torch.device("cpu")

        def denoise(self, x: Tensor, t: float) -> Tensor:
            raise AssertionError("asked before it was checked")

    with pytest.raises(sg.InvalidInput, match=r"got torch\.float16"):
        run(Half(), square)


def test_a_prior_that_answers_with_axes_exchanged_is_not_read_in_another_order() -> None:
    class Exchanged(Prior):
        schedule, event_shape = VP(), (2,)
        dtype, device = F64, torch.device("cpu")

        def denoise(self, x: Tensor, t: float) -> Tensor:
            return x.T

    model = sg.GuidedDiffusion(
        Exchanged(), square, kernel=sg.kernels.DDPM(), times=karras(4), potential=Tweedie(),
        proposal=Bootstrap(),
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="shape"):
        sg.run(model, num_particles=8, progress=False)


def test_hidden_numbers_of_a_masked_measurement_are_never_looked_at(prior: Watched) -> None:
    y = torch.tensor([0.3, NAN], dtype=F64)
    posterior = run(prior, LinearGaussian(MASK, y, 0.5))
    assert math.isfinite(float(posterior.log_evidence))


@pytest.mark.parametrize("q", [-0.1, 1.1, [0.5, 2.0], NAN])
def test_quantile_levels_lie_between_zero_and_one(q: Any, prior: Watched) -> None:
    posterior = run(prior, good())
    with pytest.raises(sg.InvalidInput, match=r"levels must be in \[0, 1\]"):
        posterior.quantile(q)


def test_a_cost_without_gradient_works_where_none_is_asked_for(prior: Watched) -> None:
    numbers = [
        run(
            prior, cost, num_particles=64, proposal=Bootstrap(), potential=Tweedie(), seed=3
        ).log_evidence
        for cost in (square, by_numpy, detached)
    ]
    assert numbers[0] == numbers[1] == numbers[2]
    chosen = run(prior, by_numpy, num_particles=64, seed=3)
    assert chosen.settings["proposal"] == "Bootstrap()"
    assert chosen.settings["potential"].startswith("Tweedie")
    assert chosen.log_evidence == numbers[0]


# ---- what only a run can find --------------------------------------------------------------------

EDGE = 4.5  # near the prior's mean: no standard normal event of the checks lies beyond


class Partly(TerminalCost):
    """Three systems; beyond the edge the cost of system 1 and of system 2 is `value`."""

    num_systems = 3

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, x0: Tensor) -> Tensor:
        beyond = (x0[..., 0] > EDGE) & (torch.arange(3)[:, None] > 0)
        return torch.where(beyond, self.value, x0.square().sum(-1) / 50)

    def __repr__(self) -> str:
        return "with an edge"


@dataclass(frozen=True)
class Lost(Potential):
    """A value of -inf beyond the edge from time 0.5 on."""

    edge: float = EDGE

    def log_value(self, look: Look) -> Tensor:
        value = -0.01 * self.cost(look.x0_hat)  # flat, so that some particles are there
        lost = (look.x[..., 0] > self.edge) & (look.t.time < 0.5)
        return torch.where(lost, -INF, value)


def check_error(error: sg.DegenerateWeights, bad: Tensor, N: int) -> None:
    """Step, system and count agree with the population in the error; the history is usable."""
    assert bad.any(), "not in the corner: nothing is bad"
    assert error.system == int(bad.any(1).nonzero()[0])
    assert error.count == int(bad[error.system].sum())
    assert error.particles.x.shape == (len(bad), N, 2)
    assert [info.step for info in error.trace] == list(range(error.step + 1))
    assert error.trace[-1].time == error.time
    assert torch.isfinite(torch.stack([info.log_evidence for info in error.trace[:-1]])).all()
    said = f"step {error.step} (time {error.time:.6g}), system {error.system}: {error.count} of {N}"
    assert said in str(error)


@pytest.mark.parametrize("value", [NAN, -INF])
def test_a_cost_that_fails_at_the_end_of_some_paths(value: float, prior: Watched) -> None:
    model = explicit(prior, Partly(value), potential=Terminal())
    with pytest.raises(sg.DegenerateWeights, match=r"(?s)Culprit: the cost with an edge") as e:
        sg.run(model, num_particles=40, trigger=never())
    error = e.value
    bad = torch.isnan(error.particles.log_w) | torch.isposinf(error.particles.log_w)
    beyond = error.particles.x[..., 0] > EDGE
    assert torch.equal(bad[1:], beyond[1:])
    assert (error.step, error.time, error.system) == (5, 0.0, 1)
    assert 0 < error.count < 40
    assert "Check that it is finite where the posterior lives" in str(error)
    check_error(error, bad, 40)


def test_iterate_raises_as_run_does(prior: Watched) -> None:
    model = explicit(prior, Partly(NAN), potential=Terminal())
    with pytest.raises(sg.DegenerateWeights, match=r"step 5 \(time 0\), system 1"):
        list(sg.iterate(model, num_particles=40))


@pytest.mark.parametrize("trigger", [never(), always(), ess_below(0.5)], ids=repr)
def test_a_value_that_is_lost_before_the_end(trigger: Trigger, prior: Watched) -> None:
    """A potential of zero removes paths for good that may well end inside the posterior: resampling
    them away gives a wrong answer that looks healthy."""
    model = explicit(prior, square, potential=Lost())
    lost = next(k for k in range(5) if model.time(k) < 0.5)
    with pytest.raises(sg.DegenerateWeights, match=r"(?s)potential Lost.*Terminal\(\)") as e:
        sg.run(model, num_particles=40, trigger=trigger)
    error = e.value
    assert error.step == lost
    assert error.time == model.time(lost)
    check_error(error, error.particles.x[..., 0] > EDGE, 40)


def test_a_hard_constraint_with_a_value_at_the_estimate_is_not_answered_wrongly(
    prior: Watched,
) -> None:
    def inside(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > EDGE - 1, 0.0, INF)

    truth = math.log(0.5 * math.erfc(-0.5 / math.sqrt(2)))
    exact = run(prior, inside, potential=Terminal(), num_particles=4000, num_steps=40)
    assert float(exact.log_evidence) == pytest.approx(truth, abs=0.1)
    with pytest.raises(
        sg.DegenerateWeights, match=r"with hard constraints use potentials\.Terminal"
    ):
        run(prior, inside, num_particles=400, num_steps=40, trigger=always())


def test_a_value_that_is_lost_for_all(prior: Watched) -> None:
    model = explicit(prior, square, potential=Lost(edge=-INF))
    with pytest.raises(sg.DegenerateWeights, match=r"40 of 40 .*potential Lost") as e:
        sg.run(model, num_particles=40)
    assert e.value.count == 40
    check_error(e.value, torch.ones(1, 40, dtype=torch.bool), 40)


def test_a_model_of_ones_own_may_kill_particles_on_the_way() -> None:
    class Survival(sg.FeynmanKac):
        """Three fair coins; tails is death."""

        num_steps, event_shape = 2, (1,)

        def initial(self, shape: tuple[int, int], generator: torch.Generator) -> sg.Propagated:
            coin = torch.rand(*shape, 1, generator=generator, dtype=F64)
            return sg.Propagated(coin, torch.where(coin[..., 0] < 0.5, 0.0, -INF))

        def step(self, k: int, x: Tensor, carry: Any, generator: torch.Generator) -> sg.Propagated:
            return self.initial(tuple(x.shape[:2]), generator)

    for trigger in (never(), always()):
        posterior = sg.run(Survival(), num_particles=4000, trigger=trigger)
        assert float(posterior.log_evidence) == pytest.approx(-3 * math.log(2), abs=0.25)


def test_an_impossible_constraint_leaves_nobody_alive(prior: Watched) -> None:
    def impossible(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 1e6, 0.0, INF)

    model = explicit(prior, impossible, potential=Terminal())
    with pytest.raises(sg.DegenerateWeights, match=r"No particle is left alive.*impossible") as e:
        sg.run(model, num_particles=16, num_systems=2)
    error = e.value
    assert (error.step, error.time, error.system, error.count) == (5, 0.0, 0, 16)
    check_error(error, torch.isneginf(error.particles.log_w), 16)
    assert torch.isneginf(error.trace[-1].log_evidence).all()


def test_only_the_system_that_died_is_named(prior: Watched) -> None:
    model = explicit(prior, Partly(INF), potential=Terminal())
    moved = Watched(torch.ones(1), torch.tensor([[40.0, 0.0]], dtype=F64), scale=1.0)
    healthy = sg.run(model, num_particles=40)
    assert torch.isfinite(healthy.log_evidence).all()
    with pytest.raises(sg.DegenerateWeights, match=r"No particle is left alive") as e:
        sg.run(explicit(moved, Partly(INF), potential=Terminal()), num_particles=40)
    assert (e.value.system, e.value.count) == (1, 40)
    assert torch.isfinite(e.value.particles.log_w[0]).all()


def test_a_network_that_breaks_is_caught_where_it_breaks(prior: Watched) -> None:
    class Broken(Watched):
        def denoise(self, x: Tensor, t: float) -> Tensor:
            D = super().denoise(x, t)
            return D if t > 0.5 else torch.where(x[:, :1] > EDGE, NAN, D)

    broken = Broken(torch.ones(1), torch.tensor([[4.0, 0.0]], dtype=F64), scale=1.0)
    model = explicit(broken, square)
    with pytest.raises(sg.DegenerateWeights, match=r"NaN from the network") as e:
        sg.run(model, num_particles=40, resampler=Systematic(), trigger=at_steps([1]))
    assert e.value.time == next(t.time for t in model.levels if t.time <= 0.5)
    check_error(e.value, torch.isnan(e.value.particles.log_w), 40)


def test_a_bare_network_is_no_prior() -> None:
    with pytest.raises(
        sg.InvalidInput, match=r"prior: got a Linear; wrap a network with NetworkPrior"
    ):
        explicit(torch.nn.Linear(2, 2), square)  # type: ignore[arg-type]


def test_a_negative_seed_is_refused(prior: Watched) -> None:
    with pytest.raises(sg.InvalidInput, match=r"seed must be a whole number of at least 0, got -1"):
        run(prior, square, seed=-1)
    assert prior.asked == []


def test_arrays_and_lists_are_observations() -> None:
    A = torch.eye(2, dtype=torch.float64)
    costs = [sg.costs.LinearGaussian(A, y, 0.5) for y in ([1.0, 2.0], torch.tensor([1.0, 2.0]))]
    x = torch.zeros(1, 1, 2, dtype=torch.float64)
    assert torch.equal(costs[0](x), costs[1](x))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    import shutil

    source = Path(sg.priors.__file__).parent / "embedded" / "digits"
    shutil.copytree(source, tmp_path / "p")
    (tmp_path / "p" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(sg.InvalidInput, match=r"cannot be read.*safetensors"):
        sg.priors.from_diffusers(tmp_path / "p")


KINDS = {
    "a name for a potential": ({"potential": "tweedie"}, r"potential: got 'tweedie'"),
    "a class for a proposal": ({"proposal": sg.proposals.DTM}, r"write DTM\(\)"),
    "a class for a kernel": ({"kernel": sg.kernels.DDIM}, r"write DDIM\(\)"),
    "a number for a trigger": ({"trigger": 0.5}, r"triggers.ess_below\(0.5\)"),
    "a class for a resampler": ({"resampler": sg.resamplers.Systematic}, r"write Systematic\(\)"),
    "a fractional chunk": ({"chunk_size": 2.5}, r"chunk_size must be"),
    "fractional steps": ({"num_steps": 10.5}, r"whole number of at least 2 steps"),
    "one name to record": ({"record": "ancestors"}, r"tuple of names"),
}


@pytest.mark.parametrize("name", KINDS)
def test_wrong_kinds_of_parts_are_refused(name: str, prior: Watched) -> None:
    change, message = KINDS[name]
    with pytest.raises(sg.InvalidInput, match=message):
        run(prior, square, **change)
    assert prior.asked == []


SETTINGS = {
    "rule": lambda: sg.proposals.Gradient(rule="foo"),  # type: ignore[arg-type]
    "trust": lambda: sg.proposals.DTM(trust=-1.0),
    "learning rate": lambda: sg.proposals.DTM(learning_rate=0.0),
    "weights": lambda: sg.proposals.Published(weights="foo"),  # type: ignore[arg-type]
    "empty mask": lambda: sg.costs.LinearGaussian(
        torch.zeros(2, dtype=torch.bool), torch.zeros(2), 1.0
    ),
    "means": lambda: sg.priors.GaussianMixture(torch.ones(2), torch.zeros(2), scale=1.0),
    "no network": lambda: sg.priors.from_diffusers((torch.nn.Linear(1, 1), None)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_wrong_settings_are_refused_at_once(name: str) -> None:
    with pytest.raises(sg.InvalidInput):
        SETTINGS[name]()


def test_numpy_integers_are_whole_numbers(prior: Watched) -> None:
    a = run(prior, square, seed=np.int64(3), num_particles=np.int64(8))
    b = run(prior, square, seed=3, num_particles=8)
    assert torch.equal(a.x, b.x)


def test_steps_and_times_together_are_refused(prior: Watched) -> None:
    with pytest.raises(
        sg.InvalidInput, match=r"give one of them. Presets hold times and take num_steps"
    ):
        sg.sample(prior, square, num_steps=5, **sg.presets.tds())
