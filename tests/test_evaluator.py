"""A method and a part to predictions: order, views, modes, devices."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from ltbench import evaluator
from ltbench.data.feed import Part, Renderer
from ltbench.data.images import ArrayImages
from ltbench.dataset import Source
from ltbench.method import Collective
from ltbench.views.transforms import HFlip
from ltbench.views.view import View

NUM_IMAGES, NUM_CLASSES = 23, 3


class Linear(nn.Module):
    """Logits by a fixed matrix; notes how it was called."""

    eval_views = ("eval",)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(NUM_CLASSES, 32, generator=torch.Generator().manual_seed(1))
        )
        self.frozen = nn.BatchNorm2d(2)
        self.sizes = []

    def predict(self, images):
        assert not self.training
        assert not self.frozen.training
        assert not torch.is_grad_enabled()
        self.sizes.append(len(images))
        return images.flatten(1) @ self.weight.T


@pytest.fixture(scope="module")
def part():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 2, 4, 4), dtype=np.uint8)
    source = Source(
        images=ArrayImages(pixels),
        ids=np.array([f"id-{i:02d}" for i in range(40)]),
        targets=np.arange(40) % NUM_CLASSES,
        class_names=("a", "b", "c"),
        groups=np.array([f"group-{i // 2}" for i in range(40)]),
    )
    return Part.of(source, np.arange(3, 3 + NUM_IMAGES))


@pytest.fixture
def renderer(part):
    views = {"eval": View(()), "mirrored": View((HFlip(p=1.0),))}
    return Renderer(part, views, mean=(0, 0), std=(1, 1), device=torch.device("cpu"))


def predict(method, renderer, collective=None, autocast=nullcontext, batch_size=10):
    return evaluator.predict(
        method,
        renderer,
        batch_size=batch_size,
        collective=collective or Collective(),
        autocast=autocast,
    )


def logits_of(method, part, flip=False):
    pictures = part.images.take(part.positions).float() / 255
    pictures = pictures.flip(-1) if flip else pictures
    return (pictures.flatten(1) @ method.weight.T).detach().numpy()


def test_in_stored_order(part, renderer):
    method = Linear()
    found = predict(method, renderer)
    np.testing.assert_allclose(found.logits, logits_of(method, part), rtol=1e-5, atol=1e-6)
    assert found.ids.tolist() == [f"id-{i:02d}" for i in range(3, 26)]
    assert found.targets.tolist() == [i % 3 for i in range(3, 26)]
    assert found.groups.tolist() == [f"group-{i // 2}" for i in range(3, 26)]
    assert found.class_names == ("a", "b", "c")
    assert method.sizes == [10, 10, 3]


def test_several_views_are_averaged_as_logits(part, renderer):
    method = Linear()
    method.eval_views = ("eval", "mirrored")
    expected = (logits_of(method, part) + logits_of(method, part, flip=True)) / 2
    assert not np.allclose(logits_of(method, part), logits_of(method, part, flip=True))
    np.testing.assert_allclose(predict(method, renderer).logits, expected, rtol=1e-5, atol=1e-6)


def test_float32_whatever_the_precision(part, renderer):
    method = Linear()
    found = predict(method, renderer, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    assert found.logits.dtype == np.float32
    expected = logits_of(method, part)
    np.testing.assert_allclose(found.logits, expected, rtol=0.05, atol=0.1)
    assert not np.allclose(found.logits, expected, rtol=1e-5, atol=1e-6), "bf16 was not used"


@pytest.mark.parametrize("training", [True, False])
def test_every_module_is_left_in_its_mode(renderer, training):
    """Also the parts that a method keeps in eval while it trains."""
    method = Linear().train(training)
    method.frozen.eval()
    predict(method, renderer)
    assert (method.training, method.frozen.training) == (training, False)
    method.frozen.train()
    predict(method, renderer)
    assert (method.training, method.frozen.training) == (training, True)


class Recorded(Collective):
    """One of several devices: `gather` notes its rows and joins those that are known by then."""

    def __init__(self, rank, rows):
        self.rank, self.world_size, self.rows = rank, len(rows), rows

    def gather(self, x, *, grad=False):
        self.rows[self.rank] = x
        known = [row for row in self.rows if row is not None]
        return torch.cat([*known, *[torch.zeros_like(x)] * (self.world_size - len(known))])


@pytest.mark.parametrize("world_size", [2, 5, 7, 30])
def test_devices_share_the_images_and_all_return_the_whole(part, renderer, world_size):
    """Also where shares are uneven or empty."""
    method, rows = Linear(), [None] * world_size
    for rank in range(world_size):
        predict(method, renderer, Recorded(rank, rows))
    assert len({row.shape for row in rows}) == 1, "gathering needs rows of one shape"
    assert sum(method.sizes) == NUM_IMAGES, "each image once"
    alone = predict(Linear(), renderer)
    for rank in range(world_size):
        found = predict(method, renderer, Recorded(rank, list(rows)))
        np.testing.assert_allclose(found.logits, alone.logits, rtol=1e-5, atol=1e-6)
        assert found.ids.tolist() == alone.ids.tolist()


def test_equal_logits_go_to_the_first_class():
    logits = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]], dtype=np.float32)
    assert evaluator.predicted_classes(logits).tolist() == [0, 1]
