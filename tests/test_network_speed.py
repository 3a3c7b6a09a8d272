"""Networks made fast: half precision, less memory for gradients, compiled, in memory of their own. What
comes out must be what came out before. Times are for the benchmarks."""

import math

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import smcguide as sg
from smcguide.errors import DegenerateWeights, InvalidInput
from smcguide.priors import NetworkPrior, recompute_blocks
from smcguide.schedules import VP
from smcguide.testing import generator, z_test

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
DIGITS = sg.priors.load("digits")


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.up, self.down = nn.Linear(d, 8 * d), nn.Linear(8 * d, d)

    def forward(self, x, shift=0.0):
        return x + self.down(torch.nn.functional.silu(self.up(x + shift)))


class Net(nn.Module):
    """A small residual network over events (d,) with fixed weights."""

    def __init__(self, d=6, depth=3):
        super().__init__()
        self.blocks = nn.ModuleList(Block(d) for _ in range(depth))
        g = generator("weights")
        for p in self.parameters():
            p.data = 0.2 * torch.randn(p.shape, generator=g)

    def forward(self, x, t):
        for block in self.blocks:
            x = block(x, shift=t[:, None].to(x.dtype))
        return x


def prior_of(net, prediction="epsilon", d=6, **options):
    return NetworkPrior(net, VP(), prediction, (d,), **options)


def inputs(*shape):
    return torch.randn(shape, generator=generator("inputs"))


def value_and_gradient(prior, x, t=0.4):
    x = x.clone().requires_grad_()
    D = prior.denoise(x, t)
    return D.detach(), torch.autograd.grad(D.square().sum(), x)[0]


def posterior(prior, proposal=None, seed=1, size=(16, 4), chunk_size=None):
    """A run of (N, S) particles with four steps and two coordinates measured."""
    d = math.prod(prior.event_shape)
    cost = sg.costs.LinearGaussian(
        torch.eye(d)[d // 2 : d // 2 + 2], torch.tensor([0.8, -0.5]), 0.5
    )
    model = sg.GuidedDiffusion(
        prior, cost, kernel=sg.kernels.DDPM(), times=sg.grids.karras(4),
        potential=sg.potentials.Tweedie(), proposal=proposal or sg.proposals.Gradient(trust=2.0),
        chunk_size=chunk_size,
    )  # fmt: skip
    return sg.run(model, num_particles=size[0], num_systems=size[1], seed=seed, progress=False)


# ---- half precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [BF16, F16], ids=str)
def test_a_network_in_half_precision_denoises_digits_to_its_rounding(half):
    prior, x = DIGITS.to(network_dtype=half), inputs(4, 1, 8, 8)
    (D, g), (D_half, g_half) = (value_and_gradient(p, x, 300.0) for p in (DIGITS, prior))
    eps = torch.finfo(half).eps
    assert (D_half.dtype, g_half.dtype) == (F32, F32)
    assert 0.02 * eps < (D_half - D).norm() / D.norm() < 2 * eps
    assert 0.02 * eps < (g_half - g).norm() / g.norm() < 4 * eps


@pytest.mark.parametrize(
    "proposal", [sg.proposals.Gradient(trust=2.0), sg.proposals.DTM()], ids=repr
)
def test_evidence_and_mean_of_digits_are_those_of_float32(proposal):
    a, b = (
        posterior(prior, proposal, seed, (4, 128))
        for seed, prior in enumerate([DIGITS, DIGITS.to(network_dtype=BF16)])
    )
    assert (b.x.dtype, b.log_w.dtype, b.log_z.dtype) == (F32, F64, F64)
    z_test(b.log_z - a.log_z, 0.0, ceiling=0.4)
    z_test((b.mean() - a.mean()).flatten(1)[:, 32:34], 0.0, ceiling=0.1)


def test_a_network_cast_to_half_precision_is_a_copy_that_keeps_its_sense_of_time():
    prior = prior_of(Net())
    half, told = prior.to(network_dtype=BF16), []
    half.net.register_forward_pre_hook(lambda _, given: told.append(given[1].dtype))
    half.denoise(inputs(3, 6), 0.5)
    assert next(prior.net.parameters()).dtype == prior.network_dtype == F32
    assert next(half.net.parameters()).dtype == half.network_dtype == BF16
    assert told == [F32]
    assert half.to(network_dtype=BF16) is half


def test_a_cast_and_a_move_of_the_particles_go_together():
    both = prior_of(Net()).to(dtype=F64, network_dtype=BF16)
    assert both.denoise(inputs(3, 6).double(), 0.5).dtype == F64
    assert next(both.net.parameters()).dtype == BF16


def test_a_function_is_given_the_dtype_that_was_asked_for():
    seen = []

    def net(x, t):
        seen.append((x.dtype, t.dtype))
        return x

    prior_of(net).to(network_dtype=BF16).denoise(inputs(3, 6), 0.5)
    assert seen == [(BF16, F32)]


def test_a_network_under_autocast_of_its_own_serves_float32_particles():
    net, x = Net(), inputs(5, 6)

    def cast(x, t):
        with torch.autocast("cpu", BF16):
            out = net(x, t)
        assert out.dtype in (F32, BF16)
        return out

    exact, half = (value_and_gradient(prior_of(f), x) for f in (net, cast))
    for a, b in zip(exact, half, strict=True):
        assert b.dtype == F32
        assert 0 < (a - b).norm() / a.norm() < 2e-2


def test_a_network_dtype_that_is_no_float_is_refused():
    for wrong, named in ((torch.int8, "torch.int8"), ("bfloat16", "'bfloat16'")):
        with pytest.raises(InvalidInput, match=f"network_dtype={named}; expected a floating dtype"):
            prior_of(Net()).to(network_dtype=wrong)


def test_an_overflow_in_half_precision_is_an_error_and_no_impossible_event():
    def overflows(x, t):
        return torch.where(x[:, :1] > 0, 6e4 * x * 2, x)  # inf in float16

    prior = prior_of(overflows, "sample", clip=(-1.0, 1.0)).to(network_dtype=F16)
    D = prior.denoise(torch.tensor([[1.0] * 6, [-0.5] * 6]), 0.5)
    assert torch.equal(D[1], torch.full((6,), -0.5))
    assert D[0].isnan().all()
    with pytest.raises(DegenerateWeights, match=r"(?s)float16.*bfloat16"):
        posterior(prior, sg.proposals.Bootstrap())


# ---- memory that is the network's own --------------------------------------------------------------


class Overwrites(torch.autograd.Function):
    """a x, which keeps value and gradient where the next call puts its own, as CUDA graphs do."""

    @staticmethod
    def forward(ctx, x, net):
        ctx.net = net
        return torch.mul(x, 0.5, out=net.room(x, 0)).detach()

    @staticmethod
    def backward(ctx, grad):
        return torch.mul(grad, 0.5, out=ctx.net.room(grad, 1)).detach(), None


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.rooms = {}

    def room(self, x, kind):
        return self.rooms.setdefault((kind, x.shape), torch.empty_like(x))

    def forward(self, x, t):
        return Overwrites.apply(x, self)


class Halves(nn.Module):
    def forward(self, x, t):
        return 0.5 * x


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v", "edm"])
def test_a_network_that_overwrites_its_output_does_no_harm(prediction):
    x = inputs(2, 4, 6)
    kept = [value_and_gradient(prior_of(Halves(), prediction), a) for a in x]
    prior = prior_of(Graph(), prediction)
    found = [value_and_gradient(prior, a) for a in x]
    for a, b in zip(kept, found, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    with torch.no_grad():
        first = prior.denoise(x[0], 0.4)
        prior.denoise(x[1], 0.4)
    assert torch.equal(first, kept[0][0])


@pytest.mark.parametrize(
    "proposal", [sg.proposals.Gradient(trust=2.0), sg.proposals.DTM()], ids=repr
)
def test_a_run_with_a_network_that_overwrites_its_output_is_the_same_run(proposal):
    runs = [posterior(prior_of(n, "sample"), proposal, chunk_size=8) for n in (Halves(), Graph())]
    assert torch.equal(runs[0].x, runs[1].x)
    assert torch.equal(runs[0].log_z, runs[1].log_z)


def test_a_network_that_turns_inference_mode_on_where_no_gradient_is_asked_for_can_be_used():
    net = Net()

    def quick(x, t):
        with torch.inference_mode(not torch.is_grad_enabled()):
            return net(x, t)

    a, b = (posterior(prior_of(f, "sample"), sg.proposals.DTM()) for f in (net, quick))
    assert torch.equal(a.x, b.x)
    D = prior_of(quick, "sample").denoise(inputs(3, 6), 0.4)
    with torch.no_grad():
        outside = prior_of(quick, "sample").denoise(inputs(3, 6), 0.4)
    assert not (D.is_inference() or outside.is_inference())


# ---- gradients in less memory ----------------------------------------------------------------------


def kept_for_the_way_back(prior, x, t):
    """Bytes of the tensors that a gradient through the denoiser keeps, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in prior.net.parameters()}
    kept = {}

    def pack(a):
        storage = a.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), a)
        return a

    with saved_tensors_hooks(pack, lambda a: a):
        D = prior.denoise(x.clone().requires_grad_(), t)
    assert D.requires_grad
    return sum(size for place, (size, _) in kept.items() if place not in own)


def again(net, *kinds):
    return prior_of(recompute_blocks(net, *kinds))


@pytest.mark.parametrize("kinds", [(), (Block,)], ids=["members of lists", "a class"])
def test_blocks_that_are_computed_again_give_the_same_numbers_and_keep_a_fraction(kinds):
    plain, less, x = prior_of(Net()), again(Net(), *kinds), inputs(5, 6)
    for a, b in zip(value_and_gradient(plain, x), value_and_gradient(less, x), strict=True):
        assert torch.equal(a, b)
    assert kept_for_the_way_back(less, x, 0.4) < 0.2 * kept_for_the_way_back(plain, x, 0.4)


def test_digits_keep_half_the_bytes_for_the_same_numbers():
    less, x = sg.priors.load("digits"), inputs(3, 1, 8, 8)
    before = kept_for_the_way_back(less, x, 300.0)
    assert recompute_blocks(less.net) is less.net
    assert kept_for_the_way_back(less, x, 300.0) < 0.55 * before
    for a, b in zip(*(value_and_gradient(p, x, 300.0) for p in (DIGITS, less)), strict=True):
        assert torch.equal(a, b)


def test_a_gradient_can_be_asked_for_twice_and_the_prior_copied():
    less, x = again(Net()).to(network_dtype=BF16), inputs(5, 6).requires_grad_()
    D = less.denoise(x, 0.4)
    first, second = (torch.autograd.grad(D.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_no_block_is_computed_again_without_a_gradient():
    net, calls = Net(), []
    net.blocks[0].up.register_forward_hook(lambda *_: calls.append(1))
    prior = again(net)
    with torch.no_grad():
        prior.denoise(inputs(5, 6), 0.4)
    assert len(calls) == 1
    value_and_gradient(prior, inputs(5, 6))
    assert len(calls) == 3


def test_a_network_without_such_blocks_is_refused():
    with pytest.raises(
        InvalidInput, match=r"Linear contains no member of a ModuleList; name .* no mod"
    ):
        recompute_blocks(nn.Linear(2, 2))
    with pytest.raises(InvalidInput, match=r"Net contains no Conv1d; .* contains Block, Linear"):
        recompute_blocks(Net(), nn.Conv1d)
    with pytest.raises(InvalidInput, match=r"got NetworkPrior; expected the network, .* prior.net"):
        recompute_blocks(prior_of(Net()))
    with pytest.raises(InvalidInput, match=r"got 'Block'; expected the blocks' class"):
        recompute_blocks(Net(), "Block")


# ---- compiled --------------------------------------------------------------------------------------


@pytest.fixture
def compiler():
    """Nothing compiled before and after; gradients may be asked for twice."""
    checks = torch.distributions.Distribution._validate_args
    from torch._dynamo.utils import counters  # switches the checks of distributions off

    torch.compiler.reset()
    counters.clear()
    yield counters["stats"]
    torch.compiler.reset()
    torch.distributions.Distribution.set_default_validate_args(checks)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch asks, and hides it
@pytest.mark.parametrize(
    "proposal", [sg.proposals.Gradient(trust=2.0), sg.proposals.DTM()], ids=repr
)
def test_a_compiled_network_runs_and_is_compiled_for_few_shapes(proposal, compiler):
    eager = posterior(prior_of(Net()), proposal, size=(14, 2), chunk_size=12)
    net = torch.compile(Net(), backend="aot_eager", fullgraph=True)
    ran = posterior(prior_of(net), proposal, size=(14, 2), chunk_size=12)  # 12, 12 and 4 at once
    torch.testing.assert_close(ran.x, eager.x)
    torch.testing.assert_close(ran.log_z, eager.log_z)
    assert 0 < compiler["unique_graphs"] <= 4  # with and without gradients, one size and any size


@pytest.mark.gpu
def test_a_network_in_cuda_graphs_gives_the_numbers_of_the_network(device, compiler):
    net = Net().to(device).requires_grad_(False)
    graphs = torch.compile(net, mode="reduce-overhead")
    for proposal in (sg.proposals.Gradient(trust=2.0), sg.proposals.DTM()):
        a, b = (posterior(prior_of(f, "sample"), proposal, chunk_size=16) for f in (net, graphs))
        torch.testing.assert_close(a.x, b.x, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(a.log_z, b.log_z, rtol=1e-3, atol=1e-3)
