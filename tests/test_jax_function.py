"""A JAX function called from torch: shared memory without accidents, one derivative, few compilations,
float64 without a global switch."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import jax
import jax.numpy as jnp
import pytest
import torch

from smcguide.bridges.numpyro.batches import Batched
from smcguide.bridges.numpyro.jax_function import JaxFunction, takes_gpu_memory
from smcguide.errors import InvalidInput
from smcguide.testing.statistics import generator

M, D = 11, 3


def log_prob(x, scale):
    return -0.5 * jnp.sum(jnp.sin(x) ** 2) / scale**2 - jnp.log(scale)


def torch_log_prob(x, scale):
    return -0.5 * x.sin().square().sum(-1) / scale**2 - scale.log()


def arguments(dtype=torch.float32, num=M):
    source = generator("jax function")
    x = torch.randn(num, D, generator=source, dtype=torch.float64)
    scale = 1 + torch.rand(num, generator=source, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), scale.to(dtype).requires_grad_()


# ---- values and gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_torch(dtype):
    x, scale = arguments(dtype)
    value, expected = JaxFunction(log_prob)(x, scale), torch_log_prob(x, scale)
    assert value.dtype == dtype
    torch.testing.assert_close(value, expected)
    cotangent = torch.linspace(-1, 1, M, dtype=dtype)
    found = torch.autograd.grad(value, (x, scale), cotangent)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (x, scale), cotangent))


def test_results_keep_the_structure_of_the_function():
    f = JaxFunction(lambda x, s: {"a": (x * s, jnp.sum(x)), "b": [jnp.outer(x, x)], "n": 2})
    x, scale = arguments()
    found = f(x, scale)
    torch.testing.assert_close(found["a"][0], x * scale[:, None])
    torch.testing.assert_close(found["a"][1], x.sum(1))
    torch.testing.assert_close(found["b"][0], x[:, :, None] * x[:, None])
    assert torch.equal(found["n"], torch.full((M,), 2.0))
    assert found["n"].dtype == x.dtype


def test_the_gradient_of_several_results_adds_up():
    f = JaxFunction(lambda x: {"square": jnp.sum(x**2), "x": 3 * x, "unused": jnp.exp(x)})
    x, _ = arguments()
    found = f(x)
    (found["square"].sum() + found["x"].sum()).backward()
    torch.testing.assert_close(x.grad, (2 * x + 3).detach())


def test_gradients_in_float64_are_exact_although_jax_is_in_float32():
    assert not jax.config.jax_enable_x64
    assert torch.autograd.gradcheck(JaxFunction(log_prob, chunk_size=4), arguments(torch.float64))
    assert not jax.config.jax_enable_x64
    assert jnp.arange(2.0).dtype == jnp.float32


def test_the_switch_is_off_again_after_an_error():
    x, _ = arguments(torch.float64)
    with pytest.raises(TypeError):
        JaxFunction(lambda x: x.reshape("no shape"))(x)
    assert jnp.arange(2.0).dtype == jnp.float32


def test_float64_reaches_the_function_and_float32_stays():
    kinds = []
    f = JaxFunction(lambda x, s: kinds.append((x.dtype, s.dtype)) or jnp.sum(x) * s)
    x, scale = arguments(torch.float64)
    assert f(x, scale).dtype == torch.float64
    assert f(x.float(), scale).dtype == torch.float64  # the widest
    assert f(x.float(), scale.float()).dtype == torch.float32
    assert {str(kind) for pair in kinds for kind in pair} == {"float64", "float32"}


def test_what_needs_no_gradient_gets_none():
    x, scale = arguments()
    scale = scale.detach()
    JaxFunction(log_prob)(x, scale).sum().backward()
    assert scale.grad is None
    torch.testing.assert_close(x.grad, torch.autograd.grad(torch_log_prob(x, scale).sum(), x)[0])
    with torch.no_grad():
        assert not JaxFunction(log_prob)(x, scale).requires_grad


def test_what_needs_no_gradient_need_not_have_one():
    def halved(s):
        return jax.lax.while_loop(lambda s: s > 0.5, lambda s: s / 2, s)  # no reverse mode

    x, scale = arguments()
    f = JaxFunction(lambda x, s: jnp.sum(x) * halved(s))
    f(x, scale.detach()).sum().backward()
    assert float(x.grad.max()) <= 0.5
    with pytest.raises(ValueError, match="Reverse-mode differentiation"):
        f(x, scale).sum().backward()


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:, 2:5],
        lambda a: a[::2],
        lambda a: a[0].expand(5, 8),
        lambda a: a.t(),
        lambda a: a.flatten()[1:61].reshape(10, 6),  # not aligned
        lambda a: a.flip(0),
        lambda a: a[:, 0],
    ],
    ids=["sliced", "strided", "expanded", "transposed", "unaligned", "flipped", "column"],
)
def test_views_are_read_as_what_they_are(view):
    a = view(torch.arange(80.0).reshape(10, 8))
    for chunk_size in (len(a), 3):  # one chunk as it is; chunks with padding
        assert torch.equal(JaxFunction(lambda x: 2 * x, chunk_size=chunk_size)(a), 2 * a)


def test_overwriting_the_arguments_after_the_call_leaves_results_intact():
    f = JaxFunction(lambda x: jnp.sum(jnp.sin(jnp.cos(x))), chunk_size=64)
    x = torch.randn(64, 30_000, generator=generator("overwrite"))
    expected = f(x).clone()
    for _ in range(10):
        a = x.clone()
        value = f(a)
        a.fill_(torch.nan)
        assert torch.equal(value, expected)


@pytest.mark.parametrize("chunk_size", [8, 3])
def test_writing_to_a_result_reaches_neither_jax_nor_the_arguments(chunk_size):
    constant = jnp.arange(8.0 * D).reshape(8, D)
    f = JaxFunction(lambda x, i: (x, constant[i.astype(int)]), chunk_size=chunk_size)
    x = torch.ones(8, D, requires_grad=True)
    same, rows = f(x, torch.arange(8.0))
    for leaf in (same.detach(), rows.detach()):
        leaf.fill_(-1.0)
    assert bool((x == 1).all())
    assert torch.equal(f(x, torch.arange(8.0))[1], torch.arange(8.0 * D).reshape(8, D))


def test_gradients_may_be_written_to():
    slope = jnp.arange(1.0, 4.0)
    f = JaxFunction(lambda x: slope @ x, chunk_size=1)
    for _ in range(2):
        x = torch.zeros(1, D, requires_grad=True)
        f(x).sum().backward()
        assert x.grad.tolist() == [[1.0, 2.0, 3.0]]
        x.grad.mul_(100)


def test_an_argument_changed_between_value_and_gradient_is_noticed():
    x, scale = arguments()
    moved = x * 1
    value = JaxFunction(log_prob)(moved, scale)
    moved.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


# ---- compilation ---------------------------------------------------------------------------------


def test_no_batch_size_recompiles_beyond_a_handful():
    traced = []
    f = JaxFunction(lambda x: traced.append(x.shape) or jnp.sum(x**2), chunk_size=64)
    for num in (64, 13, 3, 1):
        f(torch.ones(num, D))
    assert len(traced) == 4  # chunks of 64, 16, 4 and 1
    for num in range(2, 200, 7):
        assert f(torch.ones(num, D)).tolist() == [D] * num
    assert len(traced) == 4


def test_gradients_are_compiled_as_rarely():
    traced = []
    f = JaxFunction(lambda x: traced.append(x.shape) or jnp.sum(x**2), chunk_size=4)
    for num in (4, 1):
        f(torch.ones(num, D, requires_grad=True)).sum().backward()
    before = len(traced)
    for num in range(2, 20):
        f(torch.ones(num, D, requires_grad=True)).sum().backward()
    assert len(traced) == before


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 11, 256])
def test_chunks_do_not_change_results(chunk_size):
    x, scale = arguments(torch.float64)
    f = JaxFunction(log_prob, chunk_size=chunk_size)
    value = f(x, scale)
    torch.testing.assert_close(value, torch_log_prob(x, scale))
    (slope,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(slope, torch.autograd.grad(torch_log_prob(x, scale).sum(), x)[0])


def test_a_function_with_branches_is_evaluated_in_a_loop():
    def branching(x):
        return jnp.sum(x**2) if x[0] > 0 else jnp.sum(x)

    x, _ = arguments(torch.float64)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        JaxFunction(branching)(x)
    value = JaxFunction(branching, loop=True)(x)
    expected = torch.where(x[:, 0] > 0, x.square().sum(1), x.sum(1))
    torch.testing.assert_close(value, expected)
    found = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), x))


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((torch.zeros(3, device="meta"),), r"on meta; give tensors on the CPU"),
        ((torch.zeros(3).half(),), r"torch.float16; float32 and float64"),
        ((torch.zeros(3).int(),), r"torch.int32; float32 and float64"),
        ((torch.zeros(3), torch.zeros(4, 2)), r"same number M >= 1 .* \[\(3,\), \(4, 2\)\]"),
        ((torch.zeros(0, 2),), r"same number M >= 1 .* \[\(0, 2\)\]"),
        ((torch.tensor(1.0),), r"shape \(M, ...\), got \[\(\)\]"),
        ((jnp.zeros(3),), r"expected tensors"),
        ((), r"expected tensors .* got \[\]"),
    ],
)
def test_other_arguments_are_refused(arrays, message):
    with pytest.raises(InvalidInput, match=message):
        JaxFunction(lambda *a: 0.0)(*arrays)


@pytest.mark.parametrize("chunk_size", [0, 2.5])
def test_a_chunk_holds_at_least_one_particle(chunk_size):
    with pytest.raises(InvalidInput, match=f"chunk_size .* got {chunk_size}"):
        JaxFunction(log_prob, chunk_size=chunk_size)


def test_a_second_derivative_is_refused():
    x, scale = arguments()
    (slope,) = torch.autograd.grad(JaxFunction(log_prob)(x, scale).sum(), x, create_graph=True)
    with pytest.raises(InvalidInput, match=r"differentiated once .*jax.hessian"):
        slope.sum().backward()


def test_torch_func_differentiates_once_and_does_not_batch():
    f, (x, scale) = JaxFunction(log_prob), (a.detach() for a in arguments())
    slope = torch.func.grad(lambda x: f(x, scale).sum())
    torch.testing.assert_close(
        slope(x), torch.func.grad(lambda x: torch_log_prob(x, scale).sum())(x)
    )
    with pytest.raises(InvalidInput, match="differentiated once"):
        torch.func.grad(lambda x: slope(x).sum())(x)
    with pytest.raises(InvalidInput, match=r"outside torch.func.vmap"):
        torch.func.vmap(f)(x[None], scale[None])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_is_refused():
    f, (x, scale) = JaxFunction(log_prob), (a.detach() for a in arguments())
    with pytest.raises(InvalidInput, match=r"in reverse mode.*jax.jvp"):
        torch.func.jvp(lambda x: f(x, scale), (x,), (x,))


# ---- processes and devices -----------------------------------------------------------------------


def gradient_in_a_process(rows):
    torch.set_num_threads(1)
    x = torch.tensor(rows, requires_grad=True)
    JaxFunction(lambda x: jnp.sum(x**2))(x).sum().backward()
    return x.grad.tolist()


def test_a_spawned_process_works_while_jax_runs_in_this_one():
    rows = [[1.0, 2.0], [3.0, 4.0]]
    assert gradient_in_a_process(rows) == [[2.0, 4.0], [6.0, 8.0]]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(gradient_in_a_process, rows).result(60) == [[2.0, 4.0], [6.0, 8.0]]


@pytest.mark.parametrize(
    ("platforms", "preallocate", "warned"),
    [
        ({"cpu"}, None, False),
        ({"gpu"}, None, True),
        ({"cpu", "cuda"}, None, True),
        ({"gpu"}, "false", False),
    ],
)
def test_a_gpu_that_jax_would_fill_is_warned_of(platforms, preallocate, warned):
    assert takes_gpu_memory(platforms, preallocate) is warned


def test_one_size_compiles_once_for_all_batch_sizes() -> None:
    traced = []

    def square(a):
        traced.append(a.shape)
        return a**2

    for one_size, times in ((True, 1), (False, 3)):
        traced.clear()
        f = Batched(square, 64, one_size=one_size)
        for num in (3, 9, 64, 100):
            x = torch.arange(float(num))
            torch.testing.assert_close(f([x], torch.float32)[0], x**2)
        assert len(traced) == times
