"""The law of a sampler on a Gaussian, by algebra instead of samples."""

import numpy as np

from skipjax.evaluation.exact.gaussian import Gaussian, stretch
from skipjax.plans import Plan


def law(plan: Plan, target: Gaussian, *, std: float = 1.0) -> Gaussian:
    """The law of x_N, with the exact prediction at every row.

    Along each principal axis of the target the state (x_i, m_{i-1}, ..., m_{i-K+1}) is Gaussian,
    and every row maps it affinely. An axis knows only its variance: the mean of the state is that
    of the target times a factor that axes of equal variance share.

    Args:
        plan: Its N rows, K predictions back; x_0 or eps, with noise or without.
        target: The law of the data, in D dimensions.
        std: Of the noise that sampling starts from, N(0, std^2 I).

    Returns:
        A Gaussian with the axes of the target. The time is N R, whatever D is.

    Raises:
        ValueError: If the plan asks the network for its variance, of which a target says nothing.
    """
    if plan.log_variance is not None:
        raise ValueError(
            "the plan asks for a learned variance, which no exact target has: write the plan with "
            "variance 'small' or 'large'"
        )
    variances = np.append(target.spectrum, target.rest)
    # The state's weights of the mean, the start and every noise: a variance summed from their
    # squares is positive, which one carried as a covariance need not be.
    state = np.zeros((len(variances), plan.history, 2 + plan.nfe))
    state[:, 0, 1] = std
    for i in range(plan.nfe):
        alpha, sigma, mix = plan.alpha[i], plan.sigma[i], np.asarray(plan.mix[i])
        of_x = alpha**2 * variances + sigma**2
        # As in the denoiser, 0 for an axis along which x is certain.
        inverse = np.divide(1.0, of_x, out=np.zeros_like(of_x), where=of_x > 0)
        if plan.space == "x_0":
            at_mean, gain = 1.0, alpha * variances * inverse
        else:
            at_mean, gain = 0.0, sigma * inverse
        # m_i = at_mean + gain (x_i - alpha), in units of the target's mean.
        m = gain[:, None] * state[:, 0]
        m[:, 0] += at_mean - gain * alpha
        history = np.concatenate([m[:, None], state[:, 1:]], axis=1)
        x = plan.keep[i] * state[:, 0] + mix @ history
        x[:, 2 + i] = plan.noise[i]
        state = np.concatenate([x[:, None], history[:, :-1]], axis=1)
    return _on_axes(target, state[:, 0, 0], np.square(state[:, 0, 1:]).sum(axis=1))


def flow_law(
    target: Gaussian, start: tuple[float, float], end: tuple[float, float] = (1.0, 0.0)
) -> Gaussian:
    """The law that the probability-flow ODE takes N(0, I) to: where its solvers converge.

    It is not the target's: for that the flow must start from N(alpha mean, alpha^2 cov +
    sigma^2), which N(0, I) is only nearly.

    Args:
        target: The law of the data.
        start: (alpha, sigma) where the flow begins, sigma > 0.
        end: (alpha, sigma) where it ends; the data by default.
    """
    variances = np.append(target.spectrum, target.rest)
    wider = stretch(variances, start, end)
    return _on_axes(target, end[0] - wider * start[0], wider**2)


def w2(a: Gaussian, b: Gaussian) -> float:
    """The Wasserstein distance W_2 between two Gaussians:

        W_2^2 = |m_a - m_b|^2 + tr(A + B - 2 (A^{1/2} B A^{1/2})^{1/2})

    On common axes, as between `law` and its target, the trace is a sum over axes of the squared
    difference of standard deviations, and exact to rounding; otherwise W_2 is to about 1e-8 of the
    largest standard deviation. Source: Dowson & Landau 1982, "The Frechet distance between
    multivariate normal distributions".

    Raises:
        ValueError: If the dimensions differ.
    """
    if a.dim != b.dim:
        raise ValueError(f"a has dimension {a.dim} and b {b.dim}: expected the same")
    apart = np.square(a.mean - b.mean).sum()
    if a.axes.shape == b.axes.shape and np.array_equal(a.axes, b.axes):
        spread = np.square(np.sqrt(a.spectrum) - np.sqrt(b.spectrum)).sum()
        spread += (a.dim - len(a.spectrum)) * (np.sqrt(a.rest) - np.sqrt(b.rest)) ** 2
    else:
        root = a.like(np.zeros(a.dim), np.sqrt(a.spectrum), np.sqrt(a.rest)).cov
        between = np.linalg.eigvalsh(root @ b.cov @ root)
        cross = np.sqrt(np.maximum(between, 0)).sum()
        spread = max(np.trace(a.cov) + np.trace(b.cov) - 2 * cross, 0.0)
    return float(np.sqrt(apart + spread))


def _on_axes(target: Gaussian, factor: np.ndarray, variances: np.ndarray) -> Gaussian:
    """With the target's mean times `factor` along each axis, and off them, [R + 1]."""
    along = target.axes.T @ target.mean
    mean = factor[-1] * target.mean + target.axes @ ((factor[:-1] - factor[-1]) * along)
    return target.like(mean, variances[:-1], float(variances[-1]))
