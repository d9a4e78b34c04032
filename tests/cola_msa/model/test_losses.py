import numpy as np
import pytest
import tensorflow as tf

from cola_msa.model.losses import (
    BilinearSimilarity,
    CosineSimilarity,
    silent_centroid_logits,
    silent_centroid_loss,
)


def ragged_loss(anchor, positive, is_active, kernel, temperature):
    """The authors' form: candidates are selected, not masked; a loop over rows."""
    candidates = [positive[i] for i in range(len(positive)) if is_active[i]]
    own = {i: n for n, i in enumerate(np.flatnonzero(is_active))}
    if not all(is_active):
        candidates.append(positive[~is_active].mean(0))
    losses = []
    for i, row in enumerate(anchor):
        scores = np.array([row @ (kernel @ c) for c in candidates]) / temperature
        label = own.get(i, len(candidates) - 1)
        losses.append(np.log(np.exp(scores - scores.max()).sum()))
        losses[-1] += scores.max() - scores[label]
    return np.mean(losses), len(candidates)


def random_batch(size, dim, silent_share, seed=0):
    random = np.random.default_rng(seed)
    anchor = np.tanh(random.standard_normal((size, dim))).astype(np.float32)
    positive = np.tanh(random.standard_normal((size, dim))).astype(np.float32)
    is_active = random.random(size) >= silent_share
    kernel = random.standard_normal((dim, dim)).astype(np.float32) * 0.1
    return anchor, positive, is_active, kernel


@pytest.mark.parametrize("silent_share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_loss_equals_the_ragged_loop(silent_share, temperature):
    anchor, positive, is_active, kernel = random_batch(12, 8, silent_share)
    similarity = BilinearSimilarity(8)
    similarity.kernel.assign(kernel)
    found = silent_centroid_loss(anchor, positive, is_active, similarity, temperature)
    expected, columns = ragged_loss(anchor, positive, is_active, kernel, temperature)
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    logits, labels = silent_centroid_logits(
        anchor, positive, is_active, similarity, temperature
    )
    assert (logits.numpy()[0] > -1e8).sum() == columns
    np.testing.assert_array_equal(labels, np.where(is_active, np.arange(12), 12))


@pytest.mark.parametrize("name", ["silent0", "silent30pct", "silent100pct"])
def test_loss_and_gradients_equal_reference(shared_reference, name):
    reference = np.load(shared_reference / f"loss_{name}.npz")
    similarity = BilinearSimilarity(512)
    similarity.kernel.assign(reference["W"])
    anchor = tf.constant(reference["anchor_embeddings"])
    positive = tf.constant(reference["positive_embeddings"])
    is_active = ~reference["silent"]
    with tf.GradientTape() as tape:
        tape.watch([anchor, positive])
        loss = silent_centroid_loss(anchor, positive, is_active, similarity, 1.0)
    found = tape.gradient(loss, [anchor, positive, similarity.kernel.value])
    assert float(loss) == pytest.approx(float(reference["loss"]), rel=1e-4)
    for gradient, key in zip(
        found, ["grad_anchor", "grad_positive", "grad_W"], strict=True
    ):
        difference = np.linalg.norm(gradient - reference[key])
        assert difference <= 1e-4 * np.linalg.norm(reference[key]) + 1e-12


def test_same_under_xla():
    anchor, positive, is_active, kernel = random_batch(6, 4, 0.5)
    similarity = BilinearSimilarity(4)
    similarity.kernel.assign(kernel)

    def loss():
        return silent_centroid_loss(anchor, positive, is_active, similarity, 0.2)

    compiled = tf.function(loss, jit_compile=True)
    assert float(compiled()) == pytest.approx(float(loss()), rel=1e-5)


def test_bilinear_similarity_by_hand():
    similarity = BilinearSimilarity(3, "normal", 0.5, seed=1)
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 3)), random.standard_normal((4, 3))
    found = similarity(tf.constant(a, tf.float32), tf.constant(b, tf.float32)).numpy()
    kernel = np.array(similarity.kernel)
    for i in range(2):
        for j in range(4):
            assert found[i, j] == pytest.approx(a[i] @ (kernel @ b[j]), rel=1e-4)


def test_identity_kernel_scale():
    np.testing.assert_allclose(
        BilinearSimilarity(3, "identity", 0.005).kernel, 0.005 * np.eye(3), rtol=1e-6
    )


def test_unknown_kernel_init_is_refused():
    with pytest.raises(ValueError, match="kernel_init"):
        BilinearSimilarity(3, "zeros")


def test_cosine_similarity():
    a = np.array([[3.0, 4.0]], np.float32)
    b = np.array([[4.0, 3.0], [-3.0, -4.0]], np.float32)
    np.testing.assert_allclose(CosineSimilarity()(a, b), [[0.96, -1.0]], rtol=1e-5)
