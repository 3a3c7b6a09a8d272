"""Tables of what is asked for again: their values serve everybody, whoever asked first."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import smcguide as sg
from smcguide.kept import Kept

F64 = torch.float64
MEANS = torch.tensor([[1.0, -1.0], [-2.0, 0.5]], dtype=F64)
SHAPES = torch.tensor([[[1.0, 0.3], [0.3, 0.5]], [[0.2, 0.0], [0.0, 2.0]]], dtype=F64)
X = torch.tensor([[0.3, -0.2], [1.0, 0.4]], dtype=F64)
T = 0.4


def new(shapes=SHAPES):
    return sg.priors.GaussianMixture(torch.ones(2), MEANS, shapes)


def in_inference_mode(prior):
    with torch.inference_mode():
        prior.denoise(X, T)


def in_hessian(prior):
    torch.func.hessian(lambda x: prior.log_prob(x, T).sum())(X)


def in_vmap_of_jvp(prior):
    one = torch.func.vmap(lambda x: prior.denoise(x[None], T)[0])
    torch.func.jvp(one, (X,), (X,))


FIRST = [in_inference_mode, in_hessian, in_vmap_of_jvp]


@pytest.mark.parametrize("first", FIRST, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[0]], ids=["many shapes", "one shape"])
def test_who_asked_a_prior_first_makes_no_difference(first, shapes):
    used, fresh = new(shapes), new(shapes)
    first(used)
    for prior in (used, fresh):
        in_hessian(prior)
    slopes = []
    for prior in (used, fresh):
        x = X.clone().requires_grad_()
        slopes += torch.autograd.grad(prior.denoise(x, T).square().sum(), x)
    assert torch.equal(slopes[0], slopes[1])
    assert torch.equal(pickle.loads(pickle.dumps(used)).denoise(X, T), fresh.denoise(X, T))


@pytest.mark.parametrize("mode", [nullcontext, torch.inference_mode, torch.no_grad])
def test_a_value_is_made_once_also_where_gradients_are_off(mode):
    made = []
    table = Kept(lambda key: made.append(key) or torch.ones(1) * key)
    for _ in range(2):
        with mode():
            assert not table[2].is_inference()
    assert made == [2]


def test_what_a_tracer_made_is_its_own():
    table = Kept(lambda key: torch.ones(1) * key)
    with FakeTensorMode():
        assert type(table[2]) is not torch.Tensor
    assert type(table[2]) is torch.Tensor and float(table[2]) == 2.0


def test_a_copied_prior_has_tables_of_its_own():
    prior = new()
    before = prior.denoise(X, T)
    twin = copy.deepcopy(prior)
    twin._m += 1.0
    assert torch.equal(prior.denoise(X, 0.7), new().denoise(X, 0.7))
    assert torch.equal(prior.denoise(X, T), before)
    assert not torch.equal(twin.denoise(X, 0.7), prior.denoise(X, 0.7))


def test_the_oldest_value_is_forgotten_where_the_table_is_full():
    table = Kept(lambda key: -key, numbers=2**21)
    assert [table[1], table[2], table[1], table[3]] == [-1, -2, -1, -3]
    assert list(table) == [2, 3]
