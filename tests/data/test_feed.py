"""Batches are a function of (seed, stage, stream, epoch, step), and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ltbench.cell import prepare
from ltbench.config import resolve
from ltbench.data.feed import (
    Part,
    Renderer,
    StageFeed,
    StreamPlan,
    TrainingSet,
    batches_per_epoch,
    stream_word,
)
from ltbench.data.images import ArrayImages
from ltbench.dataset import Source
from ltbench.errors import UsageError
from ltbench.method import Collective, Stream
from ltbench.testing.tiny import tiny_request
from ltbench.views.transforms import HFlip, Resize
from ltbench.views.view import View

TARGETS = np.repeat([0, 1, 2], [20, 6, 1])
VIEWS = {"eval": View(()), "classify": View((HFlip(p=0.5),)), "contrast": View((HFlip(p=0.5),))}


class Device(Collective):
    def __init__(self, rank, world_size):
        self.rank, self.world_size = rank, world_size


@pytest.fixture(scope="module")
def part():
    """27 pictures among 40, each of random pixels and so unlike its mirror image."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 2, 4, 4), dtype=np.uint8)
    source = Source(
        images=ArrayImages(pixels),
        ids=np.array([f"id-{i}" for i in range(40)]),
        targets=np.concatenate([TARGETS, np.zeros(13, np.int64)]),
        class_names=("a", "b", "c"),
    )
    return Part.of(source, np.arange(27))


def renderer_of(part, seed=0, **settings):
    mean, std = (0.2, 0.4), (0.5, 0.25)
    return Renderer(
        part, VIEWS, mean=mean, std=std, device=torch.device("cpu"), seed=seed, **settings
    )


def plan_of(part, stream=None, *, size=6, drop_last=True, stage=0, number=0, seed=0, device=None):
    return StreamPlan(
        part,
        stream or Stream(),
        batch_size=size,
        drop_last=drop_last,
        word=stream_word(stage, number, 0),
        seed=seed,
        epochs=4,
        collective=device or Collective(),
    )


def feed_of(part, *, seed=0, stage=0, device=None, second_size=10, stream=None):
    """Two streams: the first 4 batches of 6 of 27, the second 2 of 10."""
    plans = {
        "main": plan_of(part, stream, stage=stage, seed=seed, device=device),
        "second": plan_of(part, size=second_size, stage=stage, number=1, seed=seed, device=device),
    }
    return StageFeed(renderer_of(part, seed), plans, epochs=4)


def same(first, second):
    tensors = [
        (*batch.views, batch.targets, batch.indices, *batch.also["second"].views)
        for batch in (first, second)
    ]
    return all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))


class TestPureFunction:
    def test_of_epoch_and_step_in_any_order(self, part):
        steps = [(epoch, step) for epoch in range(3) for step in range(4)]
        forward = {at: feed_of(part).batch(*at) for at in steps}
        backward = feed_of(part)
        for at in reversed(steps):
            assert same(backward.batch(*at), forward[at]), at
        orders = {tuple(batch.indices.tolist()) for batch in forward.values()}
        assert len(orders) == len(steps)

    @pytest.mark.parametrize("other", [{"seed": 1}, {"stage": 1}])
    def test_of_seed_and_stage(self, part, other):
        first, second = feed_of(part).batch(0, 0), feed_of(part, **other).batch(0, 0)
        assert not torch.equal(first.indices, second.indices)

    def test_streams_draw_apart(self, part):
        feed = feed_of(part, second_size=6)
        batch = feed.batch(0, 0)
        assert not torch.equal(batch.indices, batch.also["second"].indices)

    def test_views_of_a_stream_draw_apart(self, part):
        """The same transform under two names flips other pictures."""
        plan = plan_of(part, Stream(views=("classify", "contrast")), size=24)
        batch = StageFeed(renderer_of(part), {"main": plan}, epochs=4).batch(0, 0)
        equal = (batch.views[0] == batch.views[1]).flatten(1).all(1)
        assert 0 < equal.sum() < 24

    def test_views_change_with_the_epoch(self, part):
        plan = plan_of(part, size=24)
        feed = StageFeed(renderer_of(part), {"main": plan}, epochs=4)
        first, second = feed.batch(0, 0), feed.batch(1, 0)
        pictures = [dict(zip(b.indices.tolist(), b.images, strict=True)) for b in (first, second)]
        common = sorted(set(pictures[0]) & set(pictures[1]))
        same_picture = [torch.equal(pictures[0][i], pictures[1][i]) for i in common]
        assert 0 < sum(same_picture) < len(common)


class TestEpoch:
    def test_each_image_once(self, part):
        plan = plan_of(part, drop_last=False)
        drawn = np.concatenate([plan.chosen(0, step)[0] for step in range(plan.num_batches)])
        assert sorted(drawn) == list(range(27))

    @pytest.mark.parametrize(
        ("images", "size", "drop_last", "devices", "expected"),
        [
            (27, 6, True, 1, (4, 6)),
            (27, 6, False, 1, (5, 3)),
            (24, 6, False, 1, (4, 6)),
            (25, 6, False, 1, (4, 6)),  # one image is no batch for BatchNorm
            (27, 6, False, 2, (4, 6)),  # nor are three for two devices: one of them would have one
            (29, 6, False, 2, (5, 4)),
            (5, 6, False, 1, (1, 5)),
        ],
    )
    def test_batches(self, images, size, drop_last, devices, expected):
        found = batches_per_epoch(images, size, drop_last=drop_last, world_size=devices)
        assert found == expected

    @pytest.mark.parametrize(
        ("images", "drop_last", "devices"), [(5, True, 1), (1, False, 1), (3, False, 2)]
    )
    def test_not_one_batch(self, images, drop_last, devices):
        with pytest.raises(UsageError, match=f"batch_size is 6, but .* has {images} images"):
            batches_per_epoch(images, 6, drop_last=drop_last, world_size=devices)

    def test_an_image_drawn_twice_is_not_seen_twice_in_one_view(self, part):
        """Class c has one image, which a balanced sampler draws about nine times."""
        plan = plan_of(part, Stream(sampler="balanced"), size=26)
        batch = StageFeed(renderer_of(part), {"main": plan}, epochs=4).batch(0, 0)
        rare = batch.images[batch.targets == 2]
        assert len(rare) > 3
        flipped = [torch.equal(picture, rare[0].flip(-1)) for picture in rare]
        assert 0 < sum(flipped) < len(rare)

    def test_second_streams_go_round(self, part):
        """Two batches an epoch of their own, under four of the first: position is by total step."""
        feed = feed_of(part)
        drawn = [feed.batch(*divmod(i, 4)).also["second"].indices.tolist() for i in range(6)]
        rounds = [drawn[i] + drawn[i + 1] for i in (0, 2, 4)]
        for one in rounds:
            assert len(set(one)) == 20
        assert rounds[0] != rounds[1] != rounds[2]

    def test_a_longer_second_stream_is_not_begun_anew_each_epoch(self, part):
        feed = feed_of(part, second_size=3)
        drawn = [feed.batch(*divmod(i, 4)).also["second"].indices.tolist() for i in range(9)]
        assert sorted(np.concatenate(drawn)) == list(range(27))


class TestDevices:
    @pytest.mark.parametrize("world_size", [2, 3])
    @pytest.mark.parametrize("drop_last", [True, False])
    def test_shares_are_contiguous_slices_of_the_one_device_batch(
        self, part, world_size, drop_last
    ):
        settings = {"size": 12 if world_size == 2 else 6, "drop_last": drop_last}
        shares = [
            plan_of(part, device=Device(rank, world_size), **settings) for rank in range(world_size)
        ]
        whole = plan_of(part, **settings)
        for epoch in (0, 1):
            for step in range(shares[0].num_batches):
                parts = [share.chosen(epoch, step) for share in shares]
                assert len({len(chosen) for chosen, _ in parts}) == 1
                for joined, expected in zip(
                    zip(*parts, strict=True), whole.chosen(epoch, step), strict=True
                ):
                    joined = np.concatenate(joined)
                    assert np.array_equal(joined, expected[: len(joined)])
                    assert len(expected) - len(joined) < world_size

    def test_pictures_too(self, part):
        whole = feed_of(part).batch(1, 2)
        shares = [feed_of(part, device=Device(rank, 2)).batch(1, 2) for rank in (0, 1)]
        assert torch.equal(torch.cat([share.images for share in shares]), whole.images)
        second = [share.also["second"].images for share in shares]
        assert torch.equal(torch.cat(second), whole.also["second"].images)

    def test_a_stream_that_devices_cannot_share(self, part):
        with pytest.raises(UsageError, match="batches of 7 images, which 2 devices cannot share"):
            plan_of(part, size=7, device=Device(0, 2))


class TestRenderer:
    def test_stored_order_normalised(self, part):
        batches = list(renderer_of(part).in_order("eval", 10))
        assert [len(batch.targets) for batch in batches] == [10, 10, 7]
        assert torch.cat([b.indices for b in batches]).tolist() == list(range(27))
        assert torch.cat([b.targets for b in batches]).tolist() == TARGETS.tolist()
        expected = part.images.take(part.positions).double() / 255
        mean, std = (torch.tensor(v).double().view(1, 2, 1, 1) for v in ((0.2, 0.4), (0.5, 0.25)))
        found = torch.cat([b.images for b in batches])
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), (expected - mean) / std, rtol=1e-5, atol=1e-6)

    def test_a_stretch(self, part):
        found = [b.indices.tolist() for b in renderer_of(part).in_order("eval", 4, 5, 11)]
        assert found == [[5, 6, 7, 8], [9, 10]]

    def test_channels_last(self, part):
        (batch,) = renderer_of(part, channels_last=True).in_order("eval", 27)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)

    def test_unknown_view_suggests(self, part):
        with pytest.raises(UsageError, match="Did you mean 'classify'"):
            renderer_of(part).view("clasify")

    def test_parts_hold_what_scoring_needs(self, part):
        assert part.class_counts == (20, 6, 1)
        assert part.ids[26] == "id-26"


class TestTrainingSet:
    def test_hooks_pass_over_training_images(self, part):
        training = TrainingSet(renderer_of(part), eval_batch_size=10)
        assert training.class_counts == (20, 6, 1)
        assert torch.cat([b.indices for b in training.iterate("train")]).tolist() == list(range(27))

    @pytest.mark.parametrize("split", ["val", "test"])
    def test_and_over_nothing_else(self, part, split):
        with pytest.raises(UsageError, match=f"'{split}' was asked for"):
            TrainingSet(renderer_of(part), eval_batch_size=10).iterate(split)


def test_normalisation_takes_the_training_part_alone(tmp_path):
    """Mean and std of `normalise: dataset`, against numpy on the pixels."""
    cell = prepare(resolve(tiny_request("ce")), results=tmp_path, data_root=None)
    pixels = cell.source.images.take(cell.split.train).numpy() / 255
    mean, std = cell.input_statistics
    assert mean == pytest.approx((pixels.mean(),))
    assert std == pytest.approx((pixels.std(),))


class Ahead:
    """Pictures that note what is asked for, and when it is fetched."""

    def __init__(self, depth):
        self.depth = depth
        self.asked, self.fetched, self.most = [], [], 0

    def submit(self, positions, draws, names, *, epoch, words):
        job = (epoch, tuple(positions.tolist()))
        self.asked.append(job)
        self.most = max(self.most, len(self.asked) - len(self.fetched))

        def result():
            self.fetched.append(job)
            return [torch.zeros(len(positions), 2, 4, 4, dtype=torch.uint8) for _ in names]

        return result

    def close(self):
        pass


class TestAskingAhead:
    def feed(self, part, depth, streams=2):
        pictures = Ahead(depth)
        renderer = renderer_of(part, make_pictures=lambda images, views, seed: pictures)
        plans = {f"s{i}": plan_of(part, number=i) for i in range(streams)}
        return StageFeed(renderer, plans, epochs=2), pictures

    @pytest.mark.parametrize("depth", [0, 2, 5, 8])
    def test_no_more_than_the_depth_and_nothing_beyond_the_stage(self, part, depth):
        feed, pictures = self.feed(part, depth)
        for number in range(8):
            feed.batch(*divmod(number, 4))
        assert len(pictures.asked) == len(pictures.fetched) == 16
        assert pictures.most <= max(depth, 2)
        assert (pictures.most > 2) == (depth >= 5)

    def test_a_jump_fetches_what_was_asked_for(self, part):
        feed, pictures = self.feed(part, 6, streams=1)
        expected, _ = self.feed(part, 0, streams=1)
        for at in ((0, 0), (1, 1), (0, 2)):
            found = feed.batch(*at)
            assert torch.equal(found.indices, expected.batch(*at).indices)
        assert pictures.most <= 6

    def test_the_batches_are_the_same(self, part):
        ahead, _ = self.feed(part, 8)
        one_by_one, _ = self.feed(part, 0)
        for number in range(8):
            at = divmod(number, 4)
            assert same_indices(ahead.batch(*at), one_by_one.batch(*at))


def same_indices(first, second):
    streams = [(b.indices, *(other.indices for other in b.also.values())) for b in (first, second)]
    return all(torch.equal(a, b) for a, b in zip(*streams, strict=True))


class Mixed(ArrayImages):
    """Pictures of two sizes, in one padded tensor."""

    @property
    def sizes(self):
        return np.where(np.arange(len(self))[:, None] % 3 == 0, 4, [[4, 2]])

    def picture(self, position):
        height, width = self.sizes[position]
        return super().picture(position)[:height, :width]

    def take(self, positions):
        pictures = [self.picture(at).copy() for at in positions.tolist()]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)

    def subset(self, positions):
        return self


class TestSizes:
    def test_a_view_that_keeps_sizes_goes_by_size(self):
        pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 4, 4), dtype=np.uint8)
        source = Source(
            images=Mixed(pixels),
            ids=np.array([f"i{k}" for k in range(10)]),
            targets=np.zeros(10, np.int64),
            class_names=("a",),
        )
        renderer = Renderer(
            Part.of(source, np.arange(10)),
            {"eval": View(()), "square": View((Resize(size=4),))},
            mean=(0, 0, 0),
            std=(1, 1, 1),
            device=torch.device("cpu"),
        )
        batches = list(renderer.in_order("eval", 3))
        seen = torch.cat([batch.indices for batch in batches]).tolist()
        assert sorted(seen) == list(range(10))
        for batch in batches:
            sizes = {tuple(source.images.sizes[i]) for i in batch.indices.tolist()}
            assert sizes == {tuple(batch.images.shape[-2:])}
        square = list(renderer.in_order("square", 4))
        assert torch.cat([batch.indices for batch in square]).tolist() == list(range(10))
