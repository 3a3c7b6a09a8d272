"""Published guidance, step by step: each preset against a literal transcription of the published update,
written here from the papers, with the same noise and norms per particle. Then what the methods promise.
"""

import math

import pytest
import torch

import smcguide as sg
from smcguide import presets
from smcguide.testing import generator, seed, z_test

F64 = torch.float64
MEANS = torch.tensor([[1.2, -0.4, 0.6], [-0.9, 0.8, -0.2]], dtype=F64)
COVARIANCE = torch.tensor([[0.5, 0.2, 0.1], [0.2, 0.4, -0.1], [0.1, -0.1, 0.3]], dtype=F64)
PRIOR = sg.priors.GaussianMixture(torch.tensor([0.4, 0.6]), MEANS, COVARIANCE)
A = torch.tensor([[1.0, 0.5, -0.3], [0.2, -0.7, 0.9]], dtype=F64)
EYE = torch.eye(3, dtype=F64)
Y, NOISE = torch.tensor([0.8, -0.5], dtype=F64), 0.4
MASK = torch.tensor([True, False, True])
TIMES = torch.tensor([0.6, 0.35, 0.2, 0.1, 0.0], dtype=F64)


def curved(x):
    """A non-linear measurement on flat batches."""
    return torch.tanh(x @ A.T) + 0.1 * x[:, :2] ** 2


LINEAR = sg.costs.LinearGaussian(A, Y, NOISE)
MASKED = sg.costs.LinearGaussian(MASK, torch.tensor([0.8, 0.0, -0.5], dtype=F64), NOISE)
CURVED = sg.costs.GaussianLikelihood(curved, Y, NOISE)
FORWARD = {LINEAR: lambda x: x @ A.T, MASKED: lambda x: x[..., MASK], CURVED: curved}
BOTH = pytest.mark.parametrize("cost", [LINEAR, CURVED], ids=["linear", "non-linear"])


def build(preset, cost, prior=PRIOR, times=TIMES):
    parts = {k: v for k, v in preset.items() if k not in ("trigger", "resampler")}
    return sg.GuidedDiffusion(prior, cost, **parts | {"times": times})


class Published:
    """What a published step may use, at x_t with the levels abar_t, abar_s of a VP schedule; (M, d)."""

    def __init__(self, model, k, x, cost=None, noise=None):
        t, s = model.levels[k], model.levels[k + 1]
        self.at, self.as_ = torch.tensor(t.alpha**2, dtype=F64), torch.tensor(s.alpha**2, dtype=F64)
        self.measure = FORWARD.get(cost)
        self.noise = None if noise is None else noise.flatten(0, 1)
        self.x = x.flatten(0, 1).clone().requires_grad_()
        self.x0 = PRIOR.denoise(self.x, t.time)
        self.eps = (self.x - self.at.sqrt() * self.x0) / (1 - self.at).sqrt()

    def distance(self, x0):
        """|y - F(x0)| of each particle."""
        return (Y - self.measure(x0)).norm(dim=-1)

    def log_likelihood(self, x0):
        return -(self.distance(x0) ** 2) / (2 * NOISE**2)

    def through_network(self, f):
        """Gradient of f(D(x)) with respect to x, particle by particle."""
        return torch.autograd.grad(f(self.x0).sum(), self.x, retain_graph=True)[0]

    def direct(self, f, x0):
        """Gradient of f at a clean event."""
        x0 = x0.detach().clone().requires_grad_()
        return torch.autograd.grad(f(x0).sum(), x0)[0]

    def ddim(self, eta, z, x0=None, eps=None):
        """The DDIM step of Song et al., equation 12."""
        x0, eps = self.x0 if x0 is None else x0, self.eps if eps is None else eps
        sigma = eta * ((1 - self.as_) / (1 - self.at) * (1 - self.at / self.as_)).sqrt()
        return (self.as_.sqrt() * x0 + (1 - self.as_ - sigma**2).sqrt() * eps + sigma * z).detach()

    def renoised(self, eta, z, x0=None, eps=None):
        """A share eta^2 of the noise is fresh."""
        x0, eps = self.x0 if x0 is None else x0, self.eps if eps is None else eps
        noise = math.sqrt(1 - eta**2) * eps + eta * z
        return (self.as_.sqrt() * x0 + (1 - self.as_).sqrt() * noise).detach()


def agree(preset, cost, published, atol=1e-10):
    """The library's step is `published(p, z)` at every step with noise; returns the largest effect of the
    guidance, which must not be negligible."""
    model, source, effect = build(preset, cost), generator("published"), 0.0
    moved = model.initial((2, 3), source)
    for k in range(model.num_steps - 1):
        x, z = moved.x, torch.randn(2, 3, 3, generator=source, dtype=F64)
        base, _ = model.kernels(k, x, moved.carry)
        p = Published(model, k, x, cost, moved.carry.get("psi_noise"))
        moved = model.advance(k, x, moved.carry, z, model.draw_noise(x, source))
        expected = published(p, z.flatten(0, 1)).reshape(x.shape)
        torch.testing.assert_close(moved.x, expected, rtol=0, atol=atol)
        effect = max(effect, float((moved.x - base.sample(z)).abs().max()))
    assert effect > 1e-2, "the test sits where guidance does nothing"
    return effect


# ---- gradients through the network ---------------------------------------------------------------


@BOTH
def test_dps_is_the_published_step_B13(cost):
    def published(p, z):
        return p.ddim(1.0, z) - 0.3 * p.through_network(p.distance)

    agree(presets.dps(0.3), cost, published)


@BOTH
def test_dps_follows_any_cost_B13(cost):
    def published(p, z):
        return p.ddim(1.0, z) + 0.1 * p.through_network(p.log_likelihood)

    agree(presets.dps(0.1, loss="cost"), cost, published)


def test_dps_poisson_is_a_rescaled_distance_B13():
    """The published Poisson code: the mean over entries of |y - F(D)| / |y_j|."""

    def published(p, z):
        def loss(x0):
            return (p.distance(x0)[:, None] / Y.abs()).mean(-1)

        return p.ddim(1.0, z) - 0.2 * p.through_network(loss)

    agree(presets.dps(0.2 * float((1 / Y.abs()).mean())), CURVED, published)


def test_a_norm_over_the_batch_is_another_step_B13():
    """Planted: the norm of the published code, which couples particles."""

    def published(p, z):
        return p.ddim(1.0, z) - 0.3 * p.through_network(lambda x0: p.distance(x0).norm()[None])

    with pytest.raises(AssertionError, match="not close"):
        agree(presets.dps(0.3), LINEAR, published)


def test_pigdm_is_the_published_step():
    def published(p, z):
        r2 = 1 - p.at  # lam^2 / (1 + lam^2) for a VP schedule
        gain = A.T @ torch.linalg.inv(A @ A.T + NOISE**2 / r2 * EYE[:2, :2])
        pulled = ((Y - p.x0 @ A.T) @ gain.T).detach()
        guide = p.through_network(lambda x0: (pulled * x0).sum(-1))
        return p.ddim(1.0, z) + p.as_.sqrt() * p.at.sqrt() * guide

    agree(presets.pigdm(), LINEAR, published)


def jacobian(p):
    """dD / dx_t of each particle, (M, d, d), row by row."""
    rows = [p.through_network(lambda x0, i=i: x0[:, i]) for i in range(3)]
    return torch.stack(rows, 1)


def guided_estimate(p, z, g):
    """The DDPM step with D + (sigma^2 / alpha) g and the noise that goes with it."""
    x0 = p.x0 + (1 - p.at) / p.at.sqrt() * g
    return p.ddim(1.0, z, x0, (p.x - p.at.sqrt() * x0) / (1 - p.at).sqrt())


def test_tmpd_is_the_published_step_B16():
    F = EYE[MASK]

    def published(p, z):
        J = jacobian(p)
        c = (1 - p.at) / p.at.sqrt() * (F @ J @ F.T @ torch.ones(2, dtype=F64)) + NOISE**2
        assert float(c.min()) > NOISE**2
        pulled = (Y - p.x0 @ F.T) / c
        return guided_estimate(p, z, torch.einsum("mij,mi->mj", J, pulled @ F))

    agree(presets.tmpd(), MASKED, published)


@pytest.mark.parametrize("num_iters", [1, 2])
def test_mmps_is_the_published_step_B16(num_iters):
    """With as many iterations as measurements the inverse itself, with one a step along the residual."""

    def published(p, z):
        J = jacobian(p)
        covariance = NOISE**2 * EYE[:2, :2] + (1 - p.at) / p.at.sqrt() * A @ J @ A.T
        b = (Y - p.x0 @ A.T)[..., None]
        pulled = torch.linalg.solve(covariance, b)[..., 0]
        if num_iters == 1:
            pulled = (b.mT @ b / (b.mT @ covariance @ b) * b)[..., 0]
        return guided_estimate(p, z, torch.einsum("mij,mi->mj", J, pulled @ A))

    agree(presets.mmps(num_iters), LINEAR, published, atol=1e-9)


@BOTH
def test_lgd_mc_is_the_published_step(cost):
    def published(p, z):
        r = (1 - p.at).sqrt()  # lam / sqrt(1 + lam^2) for a VP schedule

        def loss(x0):
            draws = (x0[:, None] + r * p.noise).flatten(0, 1)
            return torch.logsumexp(p.log_likelihood(draws).reshape(len(x0), -1), 1)

        return guided_estimate(p, z, 0.3 * p.through_network(loss))

    agree(presets.lgd_mc(5, 0.3), cost, published)


@BOTH
def test_freedom_is_the_published_step(cost):
    def published(p, z):
        return p.renoised(0.5, z) - 0.4 * p.at.sqrt() * p.through_network(p.distance)

    agree(presets.freedom(0.4), cost, published)


@BOTH
def test_universal_guidance_is_the_published_step_B42(cost):
    def published(p, z):
        sigma = (1 - p.at).sqrt()
        eps = p.eps - 0.05 * sigma * p.through_network(p.log_likelihood)
        delta = torch.zeros_like(p.x0)
        for _ in range(3):
            delta = delta + 0.02 * p.direct(p.log_likelihood, p.x0 + delta)
        eps = eps - p.at.sqrt() / sigma * delta
        return p.ddim(1.0, z, (p.x - sigma * eps) / p.at.sqrt(), eps)

    agree(presets.universal_guidance(0.05, 0.02, 3), cost, published)


# ---- gradients of the cost alone -----------------------------------------------------------------


@BOTH
def test_mpgd_is_the_published_step(cost):
    def published(p, z):
        x0 = p.x0 - 0.2 / p.as_.sqrt() * p.direct(p.distance, p.x0)
        return p.ddim(0.5, z, x0)

    agree(presets.mpgd(0.2), cost, published)


def test_normalised_gradients_are_mpgd_s_for_faces():
    scale = sg.proposals.Normalised(0.3, sg.proposals.Powers(alpha_s=-1))
    preset = presets.mpgd() | {"proposal": sg.proposals.CleanGradient(scale=scale)}

    def published(p, z):
        grad = p.direct(p.distance, p.x0)
        rho = 0.3 / grad.square().mean(-1, keepdim=True).sqrt() / p.as_.sqrt()
        return p.ddim(0.5, z, p.x0 - rho * grad)

    agree(preset, CURVED, published)


def test_dreamguider_takes_the_best_step_along_the_gradient_B40():
    """For a linear measurement: the minimiser along the gradient of C(D + u) + |u|^2 / 2 r^2."""
    H = A.T @ A / NOISE**2

    def published(p, z):
        g = p.direct(p.log_likelihood, p.x0)
        square, curvature = g.square().sum(-1), ((g @ H) * g).sum(-1)
        x0 = p.x0 + (square / (curvature + square / (1 - p.at)))[:, None] * g
        eps = (p.x - p.at.sqrt() * x0) / (1 - p.at).sqrt()
        return p.ddim(1.0, z, x0, eps)

    agree(presets.dreamguider(), LINEAR, published)


@BOTH
def test_red_diff_is_adam_on_one_event(cost):
    """With torch's own Adam and the published loss, w lam <sg(eps_theta - eps), mu> + C(mu)."""
    held = []

    def published(p, z):
        if not held:
            mu = p.x0.detach().clone().requires_grad_()
            held.append((mu, torch.optim.Adam([mu], lr=0.1, betas=(0.9, 0.99))))
        mu, adam = held[0]
        noise = ((p.x - p.at.sqrt() * mu) / (1 - p.at).sqrt()).detach()
        lam = ((1 - p.at) / p.at).sqrt()
        loss = 0.25 * lam * ((p.eps - noise).detach() * mu).sum() - p.log_likelihood(mu).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        return (p.as_.sqrt() * mu + (1 - p.as_).sqrt() * z).detach()

    agree(presets.red_diff(), cost, published)


# ---- linear algebra instead of gradients ---------------------------------------------------------


def test_diffpir_is_the_published_step():
    def published(p, z):
        rho = 2.0 * NOISE**2 * p.at / (1 - p.at)
        x0 = torch.linalg.solve(A.T @ A + rho * EYE, (Y @ A + rho * p.x0).T).T
        eps = (p.x - p.at.sqrt() * x0) / (1 - p.at).sqrt()
        return p.renoised(math.sqrt(0.3), z, x0, eps)

    agree(presets.diffpir(2.0, 0.3), LINEAR, published)


@pytest.mark.parametrize("cost", [LINEAR, MASKED], ids=["matrix", "mask"])
def test_ddnm_is_the_published_step(cost):
    F = A if cost is LINEAR else EYE[MASK]
    plus = torch.linalg.pinv(F)

    def published(p, z):
        return p.renoised(0.85, z, Y @ plus.T + p.x0 @ (EYE - plus @ F).T)

    agree(presets.ddnm(), cost, published)


BASES = {
    LINEAR: torch.linalg.svd(A),
    MASKED: (EYE[:2, :2], torch.ones(2, dtype=F64), EYE[[0, 2, 1]]),
}


def in_directions(cost, p, z):
    """x_0, e, z, y / s_i in the basis of singular vectors, and the singular values (0: unmeasured)."""
    U, S, Vt = BASES[cost]
    y, S = torch.cat([(Y @ U) / S, torch.zeros(1)]), torch.cat([S, torch.zeros(1)])
    return *(a @ Vt.T for a in (p.x0, p.eps, z)), y, S, Vt


def ddrm_direction(p, x0, eps, z, y, s, eta, eta_b):
    """One direction of the published DDRM step, in x / alpha."""
    rho = ((1 - p.as_) / p.as_).sqrt()
    if s == 0:
        return x0 + math.sqrt(1 - eta**2) * rho * eps + eta * rho * z
    if rho < NOISE / s:
        return x0 + math.sqrt(1 - eta**2) * rho * (y - x0) * s / NOISE + eta * rho * z
    return (1 - eta_b) * x0 + eta_b * y + (rho**2 - eta_b**2 * NOISE**2 / s**2).sqrt() * z


@pytest.mark.parametrize("cost", BASES, ids=["matrix", "mask"])
@pytest.mark.parametrize("eta_b", [1.0, 0.6])
def test_ddrm_is_the_published_step(cost, eta_b):
    def published(p, z):
        x0, eps, z, y, S, Vt = in_directions(cost, p, z)
        columns = [
            ddrm_direction(p, x0[:, i], eps[:, i], z[:, i], y[i], S[i], 0.85, eta_b)
            for i in range(3)
        ]
        return (p.as_.sqrt() * torch.stack(columns, -1) @ Vt).detach()

    ratios = [level.ratio for level in build(presets.ddrm(), cost).levels[1:-1]]
    assert min(ratios) < NOISE < max(ratios), "both branches must be visited"
    agree(presets.ddrm(eta_b=eta_b), cost, published)


def test_an_operator_diagonal_up_to_order_is_treated_as_a_mask():
    diagonal = torch.tensor([[0.0, 0.0, -2.0], [0.5, 0.0, 0.0]], dtype=F64)
    y = torch.tensor([0.6, 0.2], dtype=F64)
    cost = sg.costs.LinearGaussian(diagonal, y, NOISE)
    mask = torch.tensor([True, False, True])  # the same measurement, entry by entry
    same = sg.costs.LinearGaussian(
        mask, torch.tensor([0.4, 0.0, -0.3], dtype=F64), torch.tensor([0.8, 0.2], dtype=F64)
    )
    for proposal in (sg.proposals.Spectral(0.7), sg.proposals.DDSMC(), sg.proposals.Proximal()):
        preset = presets.ddrm() | {"proposal": proposal}
        kernels = []
        for c in (cost, same):
            model = build(preset, c)
            first = model.initial((2, 3), generator("diagonal"))
            kernels.append(model.kernels(1, first.x, first.carry)[1])
            assert kernels[-1].basis is None
        torch.testing.assert_close(kernels[0].mean, kernels[1].mean, rtol=0, atol=1e-12)
        std = [torch.as_tensor(q.std).expand(1, 1, 3) for q in kernels]
        torch.testing.assert_close(std[0], std[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cost", BASES, ids=["matrix", "mask"])
def test_mcg_is_the_published_step_B15(cost):
    """Gradient step and noise, then the measured directions become the noised measurement's."""

    def published(p, z):
        x = p.ddim(1.0, z) - 0.3 * p.through_network(p.distance)
        _, _, z, y, S, Vt = in_directions(cost, p, z)
        measured = p.as_.sqrt() * y + (1 - p.as_).sqrt() * z
        return torch.where(S > 0, measured, x @ Vt.T) @ Vt

    agree(presets.mcg(0.3), cost, published)


@pytest.mark.parametrize("cost", BASES, ids=["matrix", "mask"])
def test_ddsmc_is_the_published_kernel(cost):
    """N(c_x x + c_D mu, c^2 - c_D^2 w + c_D^2 P) for all of x_0's covariance P."""
    model = build(presets.ddsmc(0.3), cost)
    first = model.initial((2, 3), generator("ddsmc"))
    F = A if cost is LINEAR else EYE[MASK]
    base, q = model.kernels(0, first.x, first.carry)
    t, s = model.levels[:2]
    w = 1 / (1 / 0.3 + t.alpha**2 / t.sigma**2)
    P = torch.linalg.inv(EYE / w + F.T @ F / NOISE**2)
    p = Published(model, 0, first.x)
    mu = (p.x0 / w + Y @ F / NOISE**2) @ P
    c_x = math.sqrt(s.sigma**2 - base.std**2) / t.sigma
    c_D = s.alpha - t.alpha * c_x
    assert w < base.std**2 / (2 * c_D**2), "the published rule needs room for a variance"
    mean = (c_x * p.x + c_D * mu).detach().reshape(first.x.shape)
    torch.testing.assert_close(q.mean, mean, rtol=0, atol=1e-10)
    root = (q.sample(EYE.expand(2, 3, 3)) - q.mean)[0]  # one unit of noise for each particle
    covariance = (base.std**2 - c_D**2 * w) * EYE + c_D**2 * P
    torch.testing.assert_close(root.T @ root, covariance, rtol=1e-9, atol=1e-12)


# ---- what the methods promise --------------------------------------------------------------------

MODES = sg.priors.GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.5, 0.0], [-1.0, 1.0]], dtype=F64), scale=0.6
)
BETWEEN = sg.costs.LinearGaussian(
    torch.tensor([[1.0, 0.7]], dtype=F64), torch.tensor([1.2], dtype=F64), 0.5
)
COARSE = torch.tensor([1.0, 0.7, 0.5, 0.35, 0.25, 0.17, 0.1, 0.05, 0.0], dtype=F64)


def test_dps_alone_is_biased_and_weighted_it_is_not_B13():
    """On a mixture posterior, whatever its strength; against 10^6 paths of the same chain."""
    plain = {
        "kernel": sg.kernels.DDPM(), "times": COARSE, "potential": sg.potentials.Terminal(),
        "proposal": sg.proposals.Bootstrap(), "trigger": sg.triggers.never(), "progress": False,
    }  # fmt: skip
    truth = sg.sample(
        MODES, BETWEEN, num_particles=100_000, num_systems=10, seed=seed("modes"), **plain
    ).pooled()
    se = float(truth.log_evidence_se)
    mean, gaps = truth.mean(), []
    for zeta in (0.05, 0.1, 0.2):
        method = presets.dps(zeta) | {"times": COARSE, "progress": False}
        post = sg.sample(
            MODES, BETWEEN, num_particles=256, num_systems=300, seed=seed(f"dps {zeta}"), **method
        )
        alone = post.particles.mean(1)
        gaps.append(float(((alone.mean(0) - mean) / (alone.std(0) / 300**0.5)).abs().min()))
        with pytest.raises(AssertionError, match=r"z = \["):
            z_test(alone, mean, ceiling=0.05, truth_se=0.005)
        ratio = torch.exp(post.log_evidence - truth.log_evidence)
        z_test(ratio, 1.0, ceiling=0.03, truth_se=se)
        z_test(ratio[:, None] * post.mean(), mean, ceiling=0.03, truth_se=0.005)
    assert min(gaps) > 20, f"in standard errors: {gaps}"


def on_a_manifold(proposal, num=400, steps=50):
    """Residual and distance from the prior's plane at the end of an unweighted, noiseless run that guides
    its last step too."""
    source = generator("plane")
    plane = torch.linalg.qr(torch.randn(8, 2, generator=source, dtype=F64))[0]
    truth = plane @ torch.tensor([1.2, -0.8], dtype=F64)
    mask = torch.arange(8) < 2
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, 8, dtype=F64), plane @ plane.T)
    preset = presets.mcg(num_steps=steps) | {"proposal": proposal}
    model = build(
        preset, sg.costs.LinearGaussian(mask, truth, 1e-3), prior, sg.grids.uniform(steps)
    )
    moved = model.initial((1, num), source)
    for k in range(steps - 1):
        moved = model.step(k, moved.x, moved.carry, source)
    _, q = model.kernels(steps - 1, moved.x, moved.carry, guide_last=True)
    x = q.mean[0]
    return (x - truth)[:, mask].norm(dim=-1), (x - x @ plane @ plane.T).norm(dim=-1)


def test_mcg_meets_the_measurement_and_stays_near_the_manifold_B15():
    projected, far = on_a_manifold(sg.proposals.Spectral(noiseless=True))
    residual, near = on_a_manifold(presets.mcg(0.2)["proposal"])
    gradient_only, _ = on_a_manifold(presets.dps(0.2)["proposal"])
    assert float(residual.max()) < 1e-4 and float(projected.max()) < 1e-4
    assert float(gradient_only.max()) > 1e-2, "the residual is no achievement of the projection"
    gap = (far - near).mean() / (far - near).std() * len(far) ** 0.5
    assert float(near.mean()) < 0.9 * float(far.mean())
    assert float(gap) > 8


@pytest.mark.parametrize("proposal", ["dreamguider", "mpgd", "ddnm", "ddrm", "diffpir", "red_diff"])
def test_no_gradient_goes_through_the_network_B40(proposal):
    model = build(getattr(presets, proposal)(), LINEAR)
    sg.run(model, num_particles=8, progress=False)
    assert model.evaluations["network_backward"] == 0
    assert model.evaluations["network_forward"] == 8 * model.num_steps


def test_the_count_of_backward_passes_is_a_real_one_B40():
    model = build(presets.dps(0.1), LINEAR)
    sg.run(model, num_particles=8, progress=False)
    assert model.evaluations["network_backward"] == 8 * (model.num_steps - 1)


def absolute(x):
    """A cost that is neither smooth nor quadratic."""
    return 4 * (x[:, 0] - x[:, 1]).abs() + 2 * (x.norm(dim=-1) - 1).square()


@pytest.mark.parametrize("cost", [LINEAR, MASKED, CURVED, absolute], ids=lambda c: repr(c)[:20])
@pytest.mark.parametrize("factor", [0.1, 1.0, 10.0])
def test_dreamguider_needs_no_tuning_B40(cost, factor):
    """Several problems, with costs in different units; a fixed step diverges on some of them."""

    def scaled(x):
        return factor * cost(x[None])[0] if cost is not absolute else factor * cost(x)

    def mean_cost(proposal):
        model = build(presets.dreamguider() | {"proposal": proposal}, scaled)
        post = sg.run(model, num_particles=400, trigger=sg.triggers.never(), progress=False)
        return float(scaled(post.particles).mean())

    unguided = mean_cost(sg.proposals.Bootstrap())
    assert mean_cost(presets.dreamguider()["proposal"]) < unguided
    if factor == 10.0:
        assert not mean_cost(sg.proposals.CleanGradient(scale=0.5)) < unguided


def test_backward_universal_guidance_lowers_the_cost_B42():
    costs = []
    for num_iters in (1, 4, 16):
        model = build(presets.universal_guidance(0.0, 0.02, num_iters), CURVED)
        post = sg.run(model, num_particles=1000, trigger=sg.triggers.never(), progress=False)
        costs.append(float(CURVED(post.particles[None]).mean()))
    assert costs[2] < costs[1] < costs[0]


# ---- what cannot work is refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    "proposal", [sg.proposals.Proximal(), sg.proposals.Spectral(), sg.proposals.DDSMC()], ids=repr
)
@pytest.mark.parametrize("cost", [CURVED, absolute], ids=["non-linear", "black box"])
def test_linear_algebra_needs_a_linear_measurement(proposal, cost):
    with pytest.raises(sg.InvalidInput, match=r"needs a linear .*Use|For other costs use"):
        build(presets.ddrm() | {"proposal": proposal}, cost)


def test_a_distance_needs_a_measurement():
    for preset in (presets.dps(), presets.freedom(), presets.mpgd()):
        with pytest.raises(sg.InvalidInput, match="Use a number as scale"):
            build(preset, absolute)
        assert build(preset, CURVED + absolute)
    for preset in (presets.dps(loss="cost"), presets.freedom(loss="cost")):
        assert build(preset, absolute)


def test_large_dense_measurements_are_refused_and_large_masks_are_not():
    d = 3000
    prior = sg.priors.GaussianMixture(torch.ones(1), torch.zeros(1, d, dtype=F64), scale=1.0)
    mask = torch.ones(d, dtype=torch.bool)
    model = build(presets.ddrm(), sg.costs.LinearGaussian(mask, torch.zeros(d), 0.1), prior)
    assert model.num_steps == len(TIMES) - 1
    dense = sg.costs.LinearGaussian(torch.eye(d, dtype=F64), torch.zeros(d), 0.1)
    with pytest.raises(sg.InvalidInput, match="the limit is 2048"):
        build(presets.ddrm(), dense, prior)


def test_a_cost_without_gradient_is_refused():
    def steps(x):
        return x.detach().round().sum(-1)

    for preset in (presets.dps(loss="cost"), presets.dreamguider(), presets.red_diff()):
        with pytest.raises(sg.InvalidInput, match="cannot be differentiated"):
            build(preset, steps)


class Blind(sg.potentials.Terminal):
    has_gradient = False


def test_a_guide_without_gradient_is_refused():
    preset = presets.dps() | {"proposal": sg.proposals.Gradient(guide=Blind())}
    with pytest.raises(sg.InvalidInput, match="has no gradient"):
        build(preset, LINEAR)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.Gradient("x0"), "rule must be"),
        (lambda p: p.Gradient(scale=-1.0), "strength must be a nonnegative"),
        (lambda p: p.CleanGradient(num_iters=0), "num_iters must be at least 1"),
        (lambda p: p.CleanGradient(noise="new"), "noise must be 'kept' or 'recomputed'"),
        (lambda p: p.CleanGradient(trust=0.0), "trust positive"),
        (lambda p: p.Proximal(-1.0), "weight must be nonnegative"),
        (lambda p: p.Spectral(1.5), r"eta_b must be in \[0, 1\]"),
        (lambda p: p.DDSMC(0.0), "variance and trust must be positive"),
        (lambda p: p.StaticControl(solver="lbfgs"), "solver must be 'adam' or 'sgd'"),
        (lambda p: p.StaticControl(weight=-1.0), "nonnegative"),
        (lambda p: p.Combined((p.Bootstrap(),)), "at least two proposals"),
        (lambda p: p.PerResidual(math.nan), "strength must be"),
        (lambda p: sg.kernels.Renoise(1.5), r"share must be in \[0, 1\]"),
    ],
)
def test_settings_without_meaning_are_refused(make, message):
    with pytest.raises(sg.InvalidInput, match=message):
        make(sg.proposals)


def test_two_memories_cannot_be_combined():
    with pytest.raises(sg.InvalidInput, match="only one part may keep memory"):
        sg.proposals.Combined((sg.proposals.StaticControl(), sg.proposals.DTM(warm_start=True)))
