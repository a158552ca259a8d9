"""Views of pictures of different sizes, in batches on a device; here the CPU."""

import sys
from contextlib import nullcontext
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic import TypeAdapter
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

import ltbench
from ltbench.data.images import ArrayImages
from ltbench.errors import UsageError
from ltbench.testing.traps import no_host_sync
from ltbench.views import device as device_module
from ltbench.views.device import DevicePictures, can_render, free_memory
from ltbench.views.view import View, ViewSpec

sys.path.append(str(Path(__file__).parent))

from made_pictures import RaggedImages, lesion

CPU = torch.device("cpu")
SIZES = [(45, 58), (56, 56), (64, 85), (75, 50), (40, 90)]
PAPER = yaml.safe_load(
    (Path(ltbench.__file__).parent / "recipes" / "ecl_paper.yaml").read_text("utf-8")
)["views"]
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 0.8}
CROP = [
    {"random_resized_crop": {"size": 32, "scale": [0.3, 1.0]}}, {"hflip": {}}, {"vflip": {}},
    {"rotation": {"degrees": 90}}, {"color_jitter": JITTER}, {"grayscale": {"p": 0.2}},
]  # fmt: skip
SQUARE = [{"resize": {"size": 24}}, {"hflip": {}}, {"color_jitter": JITTER}]
LARGER = [{"resize": {"size": 96}}, {"pad_crop": {"padding": 4}}]
MIDDLE = [{"resize": {"size": 30, "short_side": True}}, {"center_crop": {"size": 28}}]
EVERY_VIEW = {"crop": CROP, "square": SQUARE, "larger": LARGER}


class StoredImages(RaggedImages):
    """As a store's: on a disk, and each reading is noted."""

    on_disk = True

    def __init__(self, pictures, kept=None):
        super().__init__(pictures, kept)
        self.read = []

    def picture(self, position):
        self.read.append(position)
        return super().picture(position)

    def take(self, positions):
        pictures = [self.picture(at) for at in positions.tolist()]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()

    def prepared(self, height, width):
        found = super().prepared(height, width)
        # A store answers with a new object each time.
        return None if found is None else SharedRecord(found)


class SharedRecord(StoredImages):
    def __init__(self, kept):
        super().__init__(kept.pictures)
        self.read, self.asked_for = kept.read, kept.asked_for


def lesions(count=10, channels=3, sizes=SIZES, kept=()):
    pictures = [lesion(n, *sizes[n % len(sizes)], channels) for n in range(count)]
    squares = {
        (side, side): StoredImages([lesion(n, side, side, channels) for n in range(count)])
        for side in kept
    }
    return StoredImages(pictures, squares)


def views_of(recipes):
    return {
        name: View(TypeAdapter(ViewSpec).validate_python(steps)) for name, steps in recipes.items()
    }


def device_pictures(images, recipes, **settings):
    return DevicePictures(images, views_of(recipes), seed=5, device=CPU, **settings)


def rendered(pictures, positions, names, draws=None, epoch=3):
    positions = np.array(positions)
    draws = positions + 100 if draws is None else np.array(draws)
    words = [40 + len(name) for name in names]
    return pictures.submit(positions, draws, names, epoch=epoch, words=words)()


def drawn(view, name, draws, epoch=3):
    return view.draw(5, stream=40 + len(name), epoch=epoch, indices=np.array(draws))


def jittered(step, u, image):
    if u[0] >= step.p:
        return image
    strengths = step.brightness, step.contrast, step.saturation
    factors = [1 - s + 2 * s * x for s, x in zip(strengths, u[2:5], strict=True)]
    numbers = [*factors, step.hue * (2 * u[5] - 1)]
    functions = tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue
    for which in list(permutations(range(4)))[int(u[1] * 24)]:
        image = functions[which](image, numbers[which])
    return image


def cut(step, u, image):
    box = step.parameters(np.array([u]), tuple(image.shape))[0].astype(int).tolist()
    return tv.resized_crop(image, *box, [step.size, step.size], antialias=True)


THEIRS = {
    "resize": lambda s, u, x: tv.resize(x, [s.size, s.size], antialias=True),
    "random_resized_crop": cut,
    "hflip": lambda s, u, x: tv.hflip(x) if u[0] < s.p else x,
    "vflip": lambda s, u, x: tv.vflip(x) if u[0] < s.p else x,
    "rotation": lambda s, u, x: tv.rotate(
        x, s.degrees * (2 * u[0] - 1), InterpolationMode.NEAREST, fill=0
    ),
    "color_jitter": jittered,
    "grayscale": lambda s, u, x: tv.rgb_to_grayscale(x, len(x)) if u[0] < s.p else x,
}


def by_torchvision(view, u, picture):
    image, start = picture, 0
    for step in view.transforms:
        image = THEIRS[step.name](step, u[start : start + step.num_words].tolist(), image)
        start += step.num_words
    return image


def planar(picture):
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)


# Against torchvision on floats, and against torchvision on uint8: its resize rounds twice (measured
# 0.14), and its jitter cuts off fractions in each of four steps (measured 1.1; here none is lost).
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(
    ("name", "num_steps", "on_floats", "on_uint8"),
    [
        ("classify", 2, 0.001, 0.2),
        ("contrast", 4, 0.001, 0.2),
        ("classify", 3, 0.001, 1.2),
        ("contrast", 6, 0.001, 1.2),
    ],
)
def test_pictures_are_those_of_torchvision(name, num_steps, on_floats, on_uint8, channels):
    images = lesions(8, channels, [(181, 233), (224, 224), (256, 341), (301, 199)])
    recipes = {name: PAPER[name][:num_steps]}
    view, draws = views_of(recipes)[name], np.arange(70, 78)
    (ours,) = rendered(device_pictures(images, recipes), np.arange(8), [name], draws)
    u = drawn(view, name, draws)
    assert ours.dtype == torch.float32
    assert ours.min() >= 0
    assert ours.max() <= 1
    pairs = [(row, planar(picture)) for row, picture in zip(u, images.pictures, strict=True)]
    floats = torch.stack([by_torchvision(view, row, image / 255) for row, image in pairs])
    levels = torch.stack([by_torchvision(view, row, image) for row, image in pairs])
    assert (ours - floats).abs().mean() * 255 < on_floats
    assert ((ours * 255).round() - levels).abs().mean() < on_uint8


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("stored", [False, True])
def test_pictures_of_one_size_are_rendered_bit_for_bit_as_one_tensor(channels, stored):
    images = lesions(7, channels, [(40, 48)])
    if not stored:
        images = ArrayImages(images.take(np.arange(7)))
    recipes = EVERY_VIEW | {"middle": MIDDLE, "none": []}
    positions, draws = np.array([5, 0, 3, 3]), np.array([9, 8, 7, 2**32 - 1])
    ours = rendered(device_pictures(images, recipes), positions, [*recipes], draws)
    for made, (name, view) in zip(ours, views_of(recipes).items(), strict=True):
        theirs = view.render(images.take(positions), drawn(view, name, draws))
        assert torch.equal(made, theirs)


def test_a_tensor_that_is_on_the_device_is_not_copied():
    images = ArrayImages(np.zeros((3, 1, 4, 4), np.uint8))
    pictures = device_pictures(images, {"none": []}, budget_bytes=0)
    assert rendered(pictures, [1], ["none"])[0].max() == 0
    images.tensor.fill_(255)
    assert rendered(pictures, [1], ["none"])[0].min() == 1


@pytest.mark.parametrize("name", [*EVERY_VIEW, "classify", "contrast"])
@pytest.mark.parametrize("channels", [3, 1])
def test_a_picture_does_not_depend_on_its_batch_bit_for_bit(name, channels):
    sizes = SIZES if name in EVERY_VIEW else [(181, 233), (301, 199), (130, 170)]
    images = lesions(9, channels, sizes)
    pictures = device_pictures(images, EVERY_VIEW | PAPER)
    (whole,) = rendered(pictures, range(9), [name])
    assert not torch.equal(whole[0], whole[5])
    for some in ([0], [4], [8], [3, 1, 3], [8, 7, 6, 5, 2]):
        assert torch.equal(rendered(pictures, some, [name])[0], whole[some])


def test_what_is_drawn_depends_on_draw_epoch_word_and_seed():
    images = lesions()
    pictures = device_pictures(images, {"crop": CROP, "again": CROP})
    some, names = [2, 6], ["crop"]
    (made,) = rendered(pictures, some, names)
    assert torch.equal(rendered(pictures, some, names)[0], made)
    other_seed = DevicePictures(images, views_of({"crop": CROP}), seed=6, device=CPU)
    for changed in (
        rendered(pictures, some, names, draws=[103, 106]),
        rendered(pictures, some, names, epoch=4),
        rendered(pictures, some, ["again"]),
        rendered(other_seed, some, names),
    ):
        assert not torch.equal(changed[0][0], made[0])


BYTES = np.cumsum([3 * height * width for height, width in SIZES * 2])


@pytest.mark.parametrize(
    ("budget", "num_held"),
    [(0, 0), (BYTES[0] - 1, 0), (BYTES[0], 1), (BYTES[5] + 9, 6), (BYTES[9], 10), (None, 10)],
)
def test_pictures_beyond_the_budget_are_read_for_each_batch_to_the_same_bits(budget, num_held):
    images = lesions()
    names, positions = [*EVERY_VIEW], [9, 0, 4, 7, 1, 5, 9]
    expected = rendered(device_pictures(images, EVERY_VIEW), positions, names)
    images.read.clear()
    pictures = device_pictures(images, EVERY_VIEW, budget_bytes=budget)
    rendered(pictures, positions, names)
    streamed = [at for at in positions if at >= num_held]
    assert images.read == [*range(num_held), *streamed]
    images.read.clear()
    for made, theirs in zip(rendered(pictures, positions, names), expected, strict=True):
        assert torch.equal(made, theirs)
    # Each once, for all three views.
    assert images.read == streamed


@pytest.mark.parametrize(("budget", "num_held"), [(0, 0), (4 * 48 * 40 * 3 - 1, 3), (None, 7)])
def test_pictures_of_one_size_keep_to_the_budget_too(budget, num_held):
    images, positions = lesions(7, 3, [(40, 48)]), [6, 2, 3, 0]
    (expected,) = rendered(device_pictures(images, {"crop": CROP}), positions, ["crop"])
    pictures = device_pictures(images, {"crop": CROP}, budget_bytes=budget)
    rendered(pictures, positions, ["crop"])
    images.read.clear()
    assert torch.equal(rendered(pictures, positions, ["crop"])[0], expected)
    assert images.read == [at for at in positions if at >= num_held]


def test_many_blocks_make_one_buffer(monkeypatch):
    images, positions = lesions(), range(10)
    expected = rendered(device_pictures(images, EVERY_VIEW), positions, ["crop"])
    monkeypatch.setattr(device_module, "_BLOCK_BYTES", 30_000)
    assert torch.equal(
        rendered(device_pictures(images, EVERY_VIEW), positions, ["crop"])[0], expected[0]
    )
    alike = lesions(7, 3, [(40, 48)])
    made = rendered(device_pictures(alike, {"none": []}), range(7), ["none"])[0]
    assert torch.equal(made, alike.take(np.arange(7)) / 255)


PREPARED = {"square": SQUARE, "plain": [{"resize": {"size": 24}}], "crop": CROP}


def test_prepared_squares_stand_for_a_first_resize():
    images = lesions(kept=[24])
    squares, positions = images.kept[24, 24], [7, 0, 4]
    square, plain = rendered(device_pictures(images, PREPARED), positions, ["square", "plain"])
    rest = views_of({"rest": SQUARE[1:]})["rest"]
    u = drawn(rest, "square", [107, 100, 104])
    assert torch.equal(square, rest.render(squares.take(np.array(positions)), u))
    assert torch.equal(plain, squares.take(np.array(positions)) / 255)
    assert images.read == []


def test_prepared_squares_stand_for_no_other_step():
    images = lesions(sizes=[(40, 48)], kept=[24])
    recipes = {
        "other": [{"resize": {"size": 25}}],
        "aspect": [{"resize": {"size": 24, "short_side": True}}],
        "later": [{"center_crop": {"size": 30}}, {"resize": {"size": 24}}],
    }
    rendered(device_pictures(images, recipes), [1, 2], [*recipes])
    assert images.kept[24, 24].read == []


def test_prepared_squares_are_held_once_and_count_towards_the_budget():
    images = lesions(kept=[24])
    squares, positions, names = images.kept[24, 24], [9, 0, 4, 5], [*PREPARED]
    expected = rendered(device_pictures(images, PREPARED), positions, names)
    # Room for all ten squares, and for the first two pictures beside them.
    budget = int(10 * 24 * 24 * 3 + BYTES[1])
    pictures = device_pictures(images, PREPARED, budget_bytes=budget)
    squares.read.clear()
    for made, theirs in zip(rendered(pictures, positions, names), expected, strict=True):
        assert torch.equal(made, theirs)
    assert squares.read == [*range(10)]
    images.read.clear()
    rendered(pictures, positions, names)
    assert squares.read == [*range(10)]
    assert images.read == [9, 4, 5]


def test_a_budget_shrinks_with_the_memory_that_is_free_by_then(monkeypatch):
    images = lesions()
    monkeypatch.setattr(device_module, "free_memory", lambda device: int(BYTES[2]))
    pictures = device_pictures(images, EVERY_VIEW, budget_bytes=10**9)
    rendered(pictures, [0], ["crop"])
    assert images.read == [0, 1, 2]


def test_a_disk_is_told_which_pictures_will_be_read():
    images = lesions(kept=[24])
    pictures = device_pictures(images, PREPARED, budget_bytes=int(BYTES[2]))
    positions = np.array([9, 1, 3])
    settings = {"epoch": 0, "words": [1, 2]}
    result = pictures.submit(positions, positions, ["crop", "plain"], **settings)
    assert images.asked_for == [[9, 3]]
    assert images.kept[24, 24].asked_for == [[9, 1, 3]]
    assert 9 not in images.read
    result()
    assert 9 in images.read
    pictures.submit(np.array([0, 2]), positions[:2], ["crop"], epoch=0, words=[1])
    assert images.asked_for == [[9, 3]]


def test_batches_are_asked_for_ahead_only_where_a_disk_gains_by_it():
    assert device_pictures(lesions(), EVERY_VIEW, budget_bytes=0).depth > 0
    assert device_pictures(lesions(), EVERY_VIEW).depth == 0
    array = ArrayImages(np.zeros((1, 3, 8, 8), np.uint8))
    assert device_pictures(array, EVERY_VIEW, budget_bytes=0).depth == 0


@pytest.mark.parametrize("steps", [MIDDLE, [], [{"center_crop": {"size": 28}}]])
def test_views_that_keep_sizes_take_batches_of_one_size(steps):
    images = lesions()
    pictures = device_pictures(images, {"view": steps}, budget_bytes=int(BYTES[3]))
    (view,) = views_of({"view": steps}).values()
    for positions in ([1, 6], [8, 3], [2]):
        (made,) = rendered(pictures, positions, ["view"])
        theirs = view.render(images.take(np.array(positions)), np.empty((len(positions), 0)))
        assert torch.equal(made, theirs)
        assert made.stride() == theirs.stride()
    with pytest.raises(UsageError, match="2 sizes, from 56 x 56 to 64 x 85") as error:
        pictures.submit(np.array([6, 2, 1]), np.arange(3), ["view"], epoch=0, words=[1])
    assert "Begin the recipe's view with a resize or a random_resized_crop" in str(error.value)


@pytest.mark.parametrize(
    ("steps", "on_ragged"),
    [
        (CROP, True),
        (SQUARE, True),
        (MIDDLE, True),  # size by size
        ([], True),
        ([{"hflip": {}}], False),
        ([{"hflip": {}}, {"resize": {"size": 8}}], False),
        ([{"resize": {"size": 8, "short_side": True}}, {"hflip": {}}], False),
        ([{"center_crop": {"size": 8}}, {"hflip": {}}], False),
    ],
)
def test_can_render_says_which_views_a_device_can_batch(steps, on_ragged):
    (view,) = views_of({"view": steps}).values()
    assert can_render(view, lesions()) == on_ragged
    assert can_render(view, lesions(3, sizes=[(40, 48)]))


@pytest.mark.parametrize("budget", [None, 0, int(BYTES[5])])
def test_no_operation_waits_for_the_device(budget):
    images = lesions(kept=[24])
    recipes = EVERY_VIEW | {"eval": MIDDLE, "square": SQUARE}
    pictures = device_pictures(images, recipes, budget_bytes=budget)
    with no_host_sync():
        made = rendered(pictures, [1, 6], [*recipes])
    assert all(torch.isfinite(pixels).all() for pixels in made)


@pytest.mark.parametrize("budget", [None, 0, int(BYTES[5])])
def test_nothing_is_computed_from_pixels_on_the_host(budget, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta device
    images, meta = lesions(kept=[24]), torch.device("meta")
    recipes = EVERY_VIEW | {"eval": MIDDLE}
    # Tensors without data: what would need a value, or mixes devices, fails.
    pictures = DevicePictures(images, views_of(recipes), seed=5, device=meta, budget_bytes=budget)
    made = rendered(pictures, [1, 6], [*recipes])
    assert [(x.device.type, x.shape[2]) for x in made] == [("meta", n) for n in (32, 24, 96, 28)]


def test_free_memory_is_a_share_of_a_cuda_devices(monkeypatch):
    assert free_memory(CPU) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    assert free_memory(torch.device("cuda", 1)) == 600


def test_closing_lets_the_pictures_go():
    images = lesions()
    pictures = device_pictures(images, EVERY_VIEW)
    rendered(pictures, [0], ["crop"])
    pictures.close()
    images.read.clear()
    rendered(pictures, [0], ["crop"])
    assert len(images.read) == 10


def test_a_view_refuses_sizes_it_cannot_settle():
    images = torch.zeros(2, 3, 40, 48, dtype=torch.uint8)
    sizes = np.array([[40, 40], [30, 48]])
    crop, middle = views_of({"crop": CROP, "middle": MIDDLE}).values()
    with pytest.raises(ValueError, match=r"\['resize', 'center_crop'\]"):
        middle.render(images, np.empty((2, 0)), sizes)
    with pytest.raises(ValueError, match=r"shape \(2, 2\).*got \(1, 2\)"):
        crop.render(images, drawn(crop, "crop", [0, 1]), sizes[:1])


@pytest.mark.gpu
@pytest.mark.parametrize("budget", [None, 0, int(BYTES[5])])
def test_a_cuda_device_makes_what_the_cpu_makes(budget):
    images, positions, names = lesions(kept=[24]), [9, 0, 4, 7], [*PREPARED]
    expected = rendered(device_pictures(images, PREPARED), positions, names)
    pictures = DevicePictures(
        images, views_of(PREPARED), seed=5, device=torch.device("cuda"), budget_bytes=budget
    )
    for made, theirs in zip(rendered(pictures, positions, names), expected, strict=True):
        assert made.is_cuda
        assert (made.cpu() - theirs).abs().mean() < 1e-4
