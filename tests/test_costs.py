"""Terminal costs: the conformance suite, densities of torch.distributions, and every refused input."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import smcguide as sg
from smcguide.costs import FunctionCost, GaussianLikelihood, LinearGaussian, SumCost, as_cost
from smcguide.errors import InvalidInput
from smcguide.testing import CostSuite, generator, z_test

F64 = torch.float64
EVENT = (2, 3)
LIKE = torch.zeros((), dtype=F64)


def randn(*shape, name="x"):
    return torch.randn(shape, generator=generator(name), dtype=F64)


A = randn(4, 6, name="matrix")
MASK = torch.tensor([[True, False, True], [False, True, False]])
STD = torch.tensor([0.5, 1.0, 2.0, 0.7], dtype=F64)


def cube(x):
    return x.flatten(1)[:, :2] ** 3


class Blur:
    """A linear operator as an object: differences of neighbouring columns."""

    def forward(self, x):
        return x[:, :, 1:] - x[:, :, :-1]

    def adjoint(self, y):
        x = y.new_zeros(len(y), *EVENT)
        x[:, :, 1:] += y
        x[:, :, :-1] -= y
        return x


class TestPlainFunction(CostSuite):
    event_shape = EVENT

    def instances(self):
        return [as_cost(lambda x: x.flatten(1).square().sum(1)), as_cost(self.constrained)]

    @staticmethod
    def constrained(x):
        return torch.where(x[:, 0, 0] < 40, x[:, 0, 0] ** 2, math.inf)


class TestGaussianLikelihood(CostSuite):
    event_shape = EVENT
    scale = 0.7

    def instances(self):
        y = randn(3, 2, name="y")
        return [
            GaussianLikelihood(cube, y[0], 0.3),
            GaussianLikelihood(cube, y, torch.tensor([0.3, 2.0]), batched=True),
        ]


class TestLinearGaussian(CostSuite):
    event_shape = EVENT

    def instances(self):
        return [
            LinearGaussian(A, randn(4, name="y"), STD),
            LinearGaussian(A, randn(3, 4, name="y"), 0.5, batched=True),
            LinearGaussian(MASK, randn(*EVENT, name="y"), 0.5),
            LinearGaussian(MASK, randn(3, *EVENT, name="y"), 0.5, batched=True),
            LinearGaussian(Blur(), randn(2, 2, name="y"), 0.5),
        ]


class TestSumCost(CostSuite):
    event_shape = EVENT

    def instances(self):
        return [
            LinearGaussian(MASK, randn(*EVENT, name="y"), 0.5)
            + GaussianLikelihood(cube, randn(3, 2, name="z"), 0.9, batched=True),
        ]


# ---- values --------------------------------------------------------------------------------------


def test_linear_gaussian_is_a_normalised_density():
    x0, y = randn(2, 5, *EVENT), randn(4, name="y")
    law = MultivariateNormal(x0.flatten(2) @ A.T, torch.diag(STD**2))
    torch.testing.assert_close(
        LinearGaussian(A, y, STD)(x0), -law.log_prob(y), rtol=1e-10, atol=1e-10
    )


def test_gaussian_likelihood_is_a_normalised_density():
    x0, y, std = randn(2, 5, *EVENT), randn(2, name="y"), torch.tensor([0.3, 2.0], dtype=F64)
    law = MultivariateNormal(cube(x0.flatten(0, 1)).unflatten(0, (2, 5)), torch.diag(std**2))
    torch.testing.assert_close(
        GaussianLikelihood(cube, y, std)(x0), -law.log_prob(y), rtol=1e-10, atol=1e-10
    )


def test_the_noise_can_be_learnt_by_gradients():
    x0, y = randn(2, 5, *EVENT), randn(4, name="y")
    std = STD.clone().requires_grad_()
    (slope,) = torch.autograd.grad(LinearGaussian(A, y, std)(x0).sum(), std)
    mean = x0.flatten(2) @ A.mT
    (expected,) = torch.autograd.grad(-torch.distributions.Normal(mean, std).log_prob(y).sum(), std)
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, *EVENT, dtype=F64), scale=1.0)
    post = sg.sample(prior, LinearGaussian(A, y, std), num_particles=8, num_steps=4)
    assert not post.log_evidence.requires_grad
    torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-10)


def test_a_scalar_noise_serves_all_entries():
    x0, y = randn(2, 5, *EVENT), randn(4, name="y")
    many = torch.full((4,), 0.8, dtype=F64)
    assert torch.equal(LinearGaussian(A, y, 0.8)(x0), LinearGaussian(A, y, many)(x0))


def test_a_batched_observation_belongs_to_its_own_system():
    x0, y = randn(3, 5, *EVENT), randn(3, 4, name="y")
    cost = LinearGaussian(A, y, STD, batched=True)
    assert cost.num_systems == 3
    rows = [LinearGaussian(A, y[s], STD)(x0[s : s + 1])[0] for s in range(3)]
    torch.testing.assert_close(cost(x0), torch.stack(rows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("filler", [math.nan, math.inf, 1e30])
def test_a_mask_ignores_whatever_is_at_unobserved_entries(filler):
    x0, y = randn(2, 5, *EVENT), randn(*EVENT, name="y")
    law = MultivariateNormal(x0[:, :, MASK], 0.25 * torch.eye(3, dtype=F64))
    spoiled = torch.where(MASK, y, filler)
    cost = LinearGaussian(MASK, spoiled, 0.5)
    torch.testing.assert_close(cost(x0), -law.log_prob(y[MASK]), rtol=1e-10, atol=1e-10)


def test_a_mask_with_one_observation_per_system_and_noise_per_entry():
    x0, y = randn(2, 5, *EVENT), randn(2, *EVENT, name="y")
    std = randn(*EVENT, name="std").exp()
    spoiled = torch.where(MASK, y, math.nan), torch.where(MASK, std, math.nan)
    cost = LinearGaussian(MASK, *spoiled, batched=True)
    law = MultivariateNormal(x0[:, :, MASK], torch.diag(std[MASK] ** 2))
    torch.testing.assert_close(cost(x0), -law.log_prob(y[:, None, MASK]), rtol=1e-10, atol=1e-10)


def test_an_operator_object_equals_its_matrix():
    cost = LinearGaussian(Blur(), randn(2, 2, name="y"), 0.5)
    cost.check(EVENT, LIKE)
    eye = torch.eye(6, dtype=F64).reshape(6, *EVENT)
    matrix = Blur().forward(eye).flatten(1).T
    torch.testing.assert_close(cost.matrix(EVENT), matrix)
    same = LinearGaussian(matrix, randn(2, 2, name="y").flatten(), 0.5)
    x0 = randn(2, 5, *EVENT)
    torch.testing.assert_close(cost(x0), same(x0))


def test_a_mask_as_a_matrix_selects_rows_of_the_identity():
    cost = LinearGaussian(MASK, randn(*EVENT, name="y"), 0.5)
    expected = torch.eye(6, dtype=F64)[MASK.flatten()]
    assert torch.equal(cost.matrix(EVENT), expected)


def test_pointwise_terms_sum_to_minus_the_cost():
    x0 = randn(2, 5, *EVENT)
    linear, cubic = (
        LinearGaussian(A, randn(4, name="y"), STD),
        GaussianLikelihood(cube, STD[:2], 0.4),
    )
    for cost in (linear, cubic):
        torch.testing.assert_close(cost.pointwise(x0).sum(-1), -cost(x0), rtol=1e-12, atol=1e-12)


def test_simulated_measurements_have_the_likelihood_s_mean_and_noise():
    x0 = randn(1, 1, *EVENT).expand(1, 4000, *EVENT)
    cost = LinearGaussian(A, torch.zeros(4, dtype=F64), STD)
    y = cost.simulate(x0, generator("simulate"))[0]
    clean = A @ x0[0, 0].flatten()
    z_test(y, clean, ceiling=0.04)
    z_test((y - clean) ** 2, STD**2, ceiling=0.1)
    again = cost.simulate(x0, generator("simulate"))[0]
    assert torch.equal(y, again)


def test_float32_measurements_and_events_give_float64_values():
    cost = LinearGaussian(A.float(), randn(4, name="y").float(), 0.5)
    assert cost(randn(2, 5, *EVENT).float()).dtype == F64


def test_a_sum_keeps_its_parts_flat():
    first, second = as_cost(lambda x: x[:, 0, 0]), LinearGaussian(A, randn(4, name="y"), STD)
    total = first + second + first
    assert isinstance(total, SumCost)
    assert [type(c) for c in total.parts()] == [FunctionCost, LinearGaussian, FunctionCost]
    x0 = randn(2, 5, *EVENT)
    torch.testing.assert_close(total(x0), 2 * x0[..., 0, 0] + second(x0))


def test_a_sum_takes_its_systems_from_any_summand():
    batched = LinearGaussian(A, randn(3, 4, name="y"), STD, batched=True)
    assert (batched + (lambda x: x[:, 0, 0])).num_systems == 3
    assert (as_cost(lambda x: x[:, 0, 0]) + batched).num_systems == 3


def test_an_object_s_cost_is_itself_and_a_function_is_wrapped():
    cost = LinearGaussian(A, randn(4, name="y"), STD)
    assert as_cost(cost) is cost
    assert repr(as_cost(cube)) == "cube"


# ---- refused input -------------------------------------------------------------------------------


def test_something_that_is_not_a_cost_is_refused():
    with pytest.raises(InvalidInput, match=r"cost: got float; expected a TerminalCost or a"):
        as_cost(3.0)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda x: x.sum(), r"\(\)"),
        (lambda x: x.flatten(1), r"\(10, 6\)"),
        (lambda x: x.flatten(1).sum(1, keepdim=True), r"\(10, 1\)"),
        (lambda x: 3.0, "float"),
    ],
    ids=["a scalar", "a matrix", "a column", "a float"],
)
def test_functions_that_do_not_return_one_number_per_event_are_refused(function, got):
    with pytest.raises(InvalidInput, match=rf"returned {got}; it must return one number per event"):
        as_cost(function)(randn(2, 5, *EVENT))


def test_a_sum_over_different_numbers_of_systems_is_refused():
    two, three = (LinearGaussian(A, randn(S, 4, name="y"), STD, batched=True) for S in (2, 3))
    with pytest.raises(InvalidInput, match=r"different numbers of systems: \[2, 3\]"):
        two + three


Y = randn(4, name="y")
BAD_Y = {"NaN": math.nan, "+inf": math.inf, "-inf": -math.inf}


@pytest.mark.parametrize("value", BAD_Y.values(), ids=BAD_Y)
@pytest.mark.parametrize("kind", [LinearGaussian, GaussianLikelihood])
def test_measurements_that_are_not_finite_are_refused(kind, value):
    y = torch.where(torch.arange(4) == 2, value, Y)
    operator = A if kind is LinearGaussian else (lambda x: x.flatten(1) @ A.T)
    with pytest.raises(InvalidInput, match=r"y holds 1 NaN or infinite numbers of 4"):
        kind(operator, y, 0.5)


def test_an_observed_nan_under_a_mask_is_refused():
    y = torch.where(MASK, math.nan, torch.zeros(EVENT, dtype=F64))
    with pytest.raises(InvalidInput, match=r"y holds 3 NaN"):
        LinearGaussian(MASK, y, 0.5)


BAD_STD = {"zero": 0.0, "negative": -1.0, "NaN": math.nan, "infinite": math.inf}


@pytest.mark.parametrize("std", BAD_STD.values(), ids=BAD_STD)
def test_noise_that_is_not_positive_and_finite_is_refused(std):
    with pytest.raises(InvalidInput, match=r"noise_std must be positive and finite"):
        LinearGaussian(A, Y, std)
    with pytest.raises(InvalidInput, match=r"noise_std must be positive and finite"):
        LinearGaussian(A, Y, torch.where(torch.arange(4) == 1, std, STD))


@pytest.mark.parametrize("shape", [(3,), (1,), (1, 4), (4, 1)])
def test_noise_of_another_shape_than_y_is_refused(shape):
    with pytest.raises(InvalidInput, match=r"noise_std has shape .*expected a number or \(4,\)"):
        LinearGaussian(A, Y, torch.ones(shape))


def test_a_batched_scalar_is_refused():
    with pytest.raises(InvalidInput, match="y must have a leading axis of systems"):
        GaussianLikelihood(cube, torch.tensor(1.0), 0.5, batched=True)


def test_a_batch_of_measurements_must_be_announced():
    cost = GaussianLikelihood(lambda x: x.flatten(1) @ A.T, randn(3, 4, name="y"), 0.5)
    with pytest.raises(InvalidInput, match="say batched=True"):
        cost.check(EVENT, LIKE)


def test_a_forward_model_of_other_events_is_refused():
    cost = GaussianLikelihood(lambda x: x @ torch.ones(5, 2), torch.zeros(2), 0.5)
    with pytest.raises(InvalidInput, match=r"model fails on a batch of events of shape \(2,"):
        cost.check(EVENT, torch.zeros(()))


def test_a_matrix_of_other_events_is_refused():
    with pytest.raises(InvalidInput, match="forward model fails on a batch of events"):
        LinearGaussian(A[:, :5], Y, STD).check(EVENT, LIKE)


def test_a_matrix_with_another_number_of_rows_than_y_is_refused():
    with pytest.raises(InvalidInput, match=r"y of shape \(4,\) does not fit a matrix .*expected 3"):
        LinearGaussian(A[:3], Y, 0.5)


@pytest.mark.parametrize("batched", [False, True])
def test_y_of_another_shape_than_the_mask_is_refused(batched):
    with pytest.raises(InvalidInput, match="does not fit the mask's"):
        LinearGaussian(MASK, torch.zeros(3), 0.5, batched=batched)


def test_a_mask_of_other_events_is_refused():
    cost = LinearGaussian(MASK, torch.zeros(EVENT), 0.5)
    with pytest.raises(InvalidInput, match=r"The mask has shape \(2, 3\), events have \(3, 2\)"):
        cost.check((3, 2), LIKE)


@pytest.mark.parametrize(
    "operator",
    [torch.ones(4, 6, dtype=torch.int64), torch.ones(4), torch.ones(2, 2, 6)],
    ids=["integers", "a vector", "three axes"],
)
def test_tensors_that_are_neither_mask_nor_matrix_are_refused(operator):
    with pytest.raises(InvalidInput, match="expected a boolean mask of the event's shape or a"):
        LinearGaussian(operator, Y, 0.5)


def test_an_operator_without_adjoint_is_refused():
    with pytest.raises(InvalidInput, match=r"is a function; expected .*GaussianLikelihood"):
        LinearGaussian(cube, Y, 0.5)


class WrongAdjoint(Blur):
    def adjoint(self, y):
        return 2 * super().adjoint(y)


class WrongShape(Blur):
    def adjoint(self, y):
        return super().adjoint(y)[:, 0]


class Affine(Blur):
    def forward(self, x):
        return super().forward(x) + 1.0


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (WrongAdjoint(), "adjoint does not match its forward map"),
        (WrongShape(), r"adjoint maps .* expected the shape of its input"),
        (Affine(), r"adjoint does not match|not linear"),
    ],
    ids=["factor", "shape", "offset"],
)
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_operators_whose_adjoint_does_not_match_are_refused(operator, message, dtype):
    cost = LinearGaussian(operator, torch.zeros(2, 2, dtype=dtype), 0.5)
    with pytest.raises(InvalidInput, match=message):
        cost.check(EVENT, torch.zeros((), dtype=dtype))


def test_a_model_refuses_a_cost_of_other_events_before_any_network_call():
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 3, dtype=F64), scale=1.0)
    with pytest.raises(InvalidInput, match="forward model fails on a batch of events"):
        sg.GuidedDiffusion(
            prior, LinearGaussian(A, Y, STD), kernel=sg.kernels.DDPM(), times=sg.grids.uniform(4),
            potential=sg.potentials.Terminal(), proposal=sg.proposals.Bootstrap(),
        )  # fmt: skip
