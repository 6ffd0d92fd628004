"""What `skipjax.sample` draws when guided: by a classifier, or by a null label."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from told import Told

import skipjax
from skipjax import denoisers, generation, guidance, plans

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")

KEY = jax.random.key(3)
NULL = 1
close = partial(np.testing.assert_allclose, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def params():
    return tiny.pretrained()


@pytest.fixture(scope="module")
def unconditional():
    return tiny.pretrained(num_classes=None)


@pytest.fixture(scope="module")
def free():
    """A network with three classes and, between them, a label for none."""
    return tiny.pretrained(num_classes=4, null_label=NULL)


@pytest.fixture(scope="module")
def classifier():
    return tiny.classifier()


@pytest.fixture(scope="module")
def mild(params):
    """A plan of four calls too, from where x_0 = (x - sigma eps) / alpha does not blow up the last
    bit, in which two programs of the same formulas may differ.
    """
    return plans.ddpm(params.schedule, [400, 300, 200, 100])


def sample(params, ids=(0, 1, 2), **options):
    """Three pictures by four calls on one device."""
    options = options if "plan" in options else {"skip": 250} | options
    return skipjax.sample(params, KEY, ids=list(ids), devices=jax.local_devices()[:1], **options)


@pytest.mark.slow
def test_a_sweep_over_guidance_runs_one_program(params, classifier, mild):
    plain, mildly = sample(params, label=1), sample(params, label=1, plan=mild)
    guided = partial(sample, params, classifier=classifier, label=1)
    drawn = {1.0: guided()}
    programs = generation.program._cache_size()
    drawn |= {scale: guided(guidance=scale) for scale in (1.0, 300.0)}
    close(guided(guidance=0, plan=mild), mildly)
    np.testing.assert_array_equal(guided(guidance_interval=(0, 999)), drawn[1.0])
    never = guided(guidance=300.0, guidance_interval=(1, 99), plan=mild)
    close(never, mildly)
    part = guided(guidance=300.0, guidance_interval=(499, 749))
    other = guided(guidance=300.0, label=[0, 2, 2])
    different = np.array([plain, drawn[300.0], part, other])
    apart = np.abs(different[:, None] - different).max((2, 3, 4, 5))
    assert (apart > 1e-3).sum() == 12
    assert np.isfinite(guided(guidance=np.float32(2), cutoff=500)).all()
    assert generation.program._cache_size() == programs


def test_remat_computes_the_layers_of_the_classifier_again(unconditional, classifier):

    def written(remat):
        by = guidance.ByClassifier(classifier, remat=remat)
        denoise = generation.denoiser(
            unconditional, {guidance.CLASS: np.zeros(1, int)}, guidance=by
        )
        return str(jax.make_jaxpr(denoise)(np.ones((1, 8, 8, 3)), denoisers.Point(5.0, 0.8, 0.6)))

    assert "remat" in written(True) and "remat" not in written(False)


@pytest.mark.slow
def test_remat_draws_the_same_pictures(unconditional, classifier, mild):
    guided = partial(sample, unconditional, classifier=classifier, guidance=300.0, plan=mild)
    close(guided(remat=True), guided())


@pytest.mark.slow
def test_a_classifier_gives_an_unconditional_network_its_labels(unconditional, classifier):
    guided = partial(sample, unconditional, classifier=classifier, guidance=300.0)
    drawn = classifier.labels.encode({}, KEY, np.arange(3))["label"]
    np.testing.assert_array_equal(guided(), guided(label=drawn))
    assert (guided(label=(drawn + 1) % 3) != guided()).any((1, 2, 3)).all()


def test_without_a_classifier_the_null_label_guides(free, mild):
    guided = partial(sample, free, ids=[4, 5, 6], label=2, plan=mild)
    close(guided(guidance=0), guided(guidance=5.0, label=NULL))
    assert np.abs(guided(guidance=5.0) - guided(guidance=1.0)).max() > 1e-3


@pytest.mark.slow
def test_guided_by_0_and_1_a_label_counts_for_nothing_and_as_ever(free, mild):
    guided = partial(sample, free, ids=[4, 5, 6], label=2, plan=mild)
    close(guided(guidance=1.0), guided())
    close(guided(guidance=0), guided(label=NULL))
    close(guided(guidance=5.0, label=NULL), guided(label=NULL))
    assert np.abs(guided(guidance=5.0) - guided()).max() > 1e-3


@pytest.mark.slow
def test_the_null_label_guides_within_its_interval_alone(free, mild):
    guided = partial(sample, free, ids=[4, 5, 6], label=2, plan=mild)
    close(guided(guidance=5.0, guidance_interval=(1, 99)), guided())
    close(guided(guidance=5.0, guidance_interval=(100, 400)), guided(guidance=5.0))


def test_a_classifier_may_guide_a_network_with_a_null_label(free, classifier, monkeypatch):
    told = Told(monkeypatch)
    given, means = jnp.array([0, 2, 3]), np.array([0, 1, 2])
    condition = {"label": given, guidance.CLASS: free.labels.to_class(given)}
    by = guidance.ByClassifier(classifier)
    denoise = generation.denoiser(free, condition, guidance=by)
    x = np.arange(3 * 8 * 8 * 3, dtype=np.float32).reshape(3, 8, 8, 3) / 100
    found = {}

    def run(x):
        gradient = denoise(x, denoisers.Point(5.0, 0.8, 0.6)).gradient
        jax.debug.callback(found.update, gradient=gradient)

    said = told.of(run, x)
    np.testing.assert_array_equal(said["UNetConfig", 3]["y"], given)
    gradient = found["gradient"]
    odds = np.exp(x.sum((1, 2)) - x.sum((1, 2)).max(-1, keepdims=True))
    expected = np.eye(3)[means] - odds / odds.sum(-1, keepdims=True)
    np.testing.assert_allclose(gradient[:, 0, 0], expected, rtol=0, atol=1e-6)
