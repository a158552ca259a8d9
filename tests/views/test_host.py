"""Views on the host against torchvision on uint8: the same drawn numbers, the same pictures."""

import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pydantic import TypeAdapter
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tv

import ltbench
from ltbench.data.images import ArrayImages
from ltbench.errors import UsageError
from ltbench.views.colour import Grayscale
from ltbench.views.host import HostView
from ltbench.views.host_colour import HostColorJitter, HostGrayscale
from ltbench.views.host_geometry import HostRandomResizedCrop, HostTurn
from ltbench.views.transforms import Transform
from ltbench.views.view import View, ViewSpec

sys.path.append(str(Path(__file__).parent))

from made_pictures import RaggedImages, lesion

PAPER = yaml.safe_load(
    (Path(ltbench.__file__).parent / "recipes" / "ecl_paper.yaml").read_text("utf-8")
)["views"]
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
TURN = [{"hflip": {}}, {"rotation": {"degrees": 90}}, {"vflip": {}}]
GEOMETRY = {
    "resize smaller": [{"resize": {"size": 112}}],
    "resize larger": [{"resize": {"size": 300}}],
    "crop": [{"random_resized_crop": {"size": 96}}],
    "crop larger": [{"random_resized_crop": {"size": 280, "scale": [0.5, 1]}}],
    "flips": [{"hflip": {}}, {"vflip": {}}, {"hflip": {"p": 0.4}}],
    "turn": TURN,
    "two rotations": [{"rotation": {"degrees": 40}}, {"hflip": {}}, {"rotation": {"degrees": 40}}],
    "pad and cut": [{"pad_crop": {"padding": 9}}, {"pad_crop": {"padding": 2}}],
    "middle": [{"resize": {"size": 190, "short_side": True}}, {"center_crop": {"size": 161}}],
    "evaluation": PAPER["eval"],
}
COLOUR = {
    "brightness": [{"color_jitter": {"brightness": 0.4}}],
    "contrast": [{"color_jitter": {"contrast": 0.4}}],
    "saturation": [{"color_jitter": {"saturation": 0.4}}],
    "hue": [{"color_jitter": {"hue": 0.1}}],
    "jitter": [{"color_jitter": JITTER}],
    "strong": [{"color_jitter": dict.fromkeys(JITTER, 0.5) | {"contrast": 3, "brightness": 0.8}}],
    "grayscale": [{"grayscale": {"p": 0.5}}],
    "colour first": [{"color_jitter": JITTER}, *TURN, {"grayscale": {"p": 0.3}}],
    "between": [{"resize": {"size": 190, "short_side": True}}, {"color_jitter": JITTER}, *TURN,
                {"center_crop": {"size": 150}}],
    "classify": PAPER["classify"],
    "contrast view": PAPER["contrast"],
}  # fmt: skip
# Grey levels on average and in the worst picture, first against torchvision on tensors (measured
# 0.0003 and 0.003; 0.36 and 1.14), then against torchvision on PIL pictures.
GEOMETRY_LEVELS = (0.001, 0.01), (0.06, 0.4)
COLOUR_LEVELS = (0.45, 1.3), (1.0, 2.0)
SIZES = [(181, 233), (224, 224), (256, 341), (301, 199)]


def view(steps):
    return View(TypeAdapter(ViewSpec).validate_python(steps))


def lesions(channels=3, count=12):
    return RaggedImages(
        [lesion(number, *SIZES[number % len(SIZES)], channels) for number in range(count)]
    )


@pytest.fixture(scope="module", params=[3, 1], ids=["colour", "grey"])
def images(request):
    return lesions(request.param)


def draw(made, images, seed=5):
    return made.draw(seed, stream=1, epoch=0, indices=np.arange(len(images)))


def render_each(made, images, u):
    """A picture at a time, because their views may differ in size."""
    host, rendered = HostView(made, images), []
    for number in range(len(images)):
        out = np.full((1, *host.output_sizes[number], images.channels), 77, np.uint8)
        host.render(np.array([number]), u[number : number + 1], out)
        rendered.append(out[0])
    return rendered


def jittered(step, u, image):
    def factor(strength, drawn):
        low = max(0.0, 1 - strength)
        return low + drawn * (1 + strength - low)

    if u[0] >= step.p:
        return image
    functions = (
        lambda x: tv.adjust_brightness(x, factor(step.brightness, u[2])),
        lambda x: tv.adjust_contrast(x, factor(step.contrast, u[3])),
        lambda x: tv.adjust_saturation(x, factor(step.saturation, u[4])),
        lambda x: tv.adjust_hue(x, step.hue * (2 * u[5] - 1)),
    )
    strengths = (step.brightness, step.contrast, step.saturation, step.hue)
    for number in list(permutations(range(4)))[int(u[1] * 24)]:
        if strengths[number]:
            image = functions[number](image)
    return image


def cut(step, u, image):
    box = step.parameters(np.array([u]), (3, *tv.get_size(image)))[0].astype(int)
    return tv.resized_crop(image, *box.tolist(), [step.size, step.size], antialias=True)


def padded(step, u, image):
    top, left = (int(drawn * (2 * step.padding + 1)) for drawn in u)
    return tv.crop(tv.pad(image, [step.padding] * 4), top, left, *tv.get_size(image))


THEIRS = {
    "resize": lambda s, u, x: tv.resize(x, [s.size] * (1 if s.short_side else 2), antialias=True),
    "random_resized_crop": cut,
    "hflip": lambda s, u, x: tv.hflip(x) if u[0] < s.p else x,
    "vflip": lambda s, u, x: tv.vflip(x) if u[0] < s.p else x,
    "rotation": lambda s, u, x: tv.rotate(
        x, s.degrees * (2 * u[0] - 1), InterpolationMode.NEAREST, fill=0
    ),
    "center_crop": lambda s, u, x: tv.center_crop(x, [s.size]),
    "pad_crop": padded,
    "color_jitter": jittered,
    "grayscale": lambda s, u, x: (
        tv.rgb_to_grayscale(x, tv.get_num_channels(x)) if u[0] < s.p else x
    ),
}


def by_torchvision(made, u, image):
    start = 0
    for step in made.transforms:
        image = THEIRS[step.name](step, u[start : start + step.num_words].tolist(), image)
        start += step.num_words
    if isinstance(image, Tensor):
        return image.permute(1, 2, 0).numpy()
    return np.asarray(image).reshape(*image.size[::-1], -1)


def on_floats(made, images, u):
    """By the device path, on the scale of grey levels."""
    return [
        made.render(planar(picture)[None], row[None])[0].permute(1, 2, 0).numpy() * 255
        for row, picture in zip(u, images.pictures, strict=True)
    ]


def planar(picture):
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)


def assert_close(ours, theirs, levels):
    """`levels`: grey levels of difference allowed on average, and in the worst picture."""
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
    means = [
        np.abs(mine.astype(float) - other).mean() for mine, other in zip(ours, theirs, strict=True)
    ]
    assert np.mean(means) <= levels[0]
    assert max(means) <= levels[1]


@pytest.mark.parametrize("name", [*GEOMETRY, *COLOUR])
def test_pictures_are_those_of_torchvision(name, images):
    made = view((GEOMETRY | COLOUR)[name])
    levels = GEOMETRY_LEVELS if name in GEOMETRY else COLOUR_LEVELS
    u = draw(made, images)
    ours = render_each(made, images, u)
    on_tensors = [
        by_torchvision(made, row, planar(picture))
        for row, picture in zip(u, images.pictures, strict=True)
    ]
    on_pil = [
        by_torchvision(made, row, Image.fromarray(picture.squeeze()))
        for row, picture in zip(u, images.pictures, strict=True)
    ]
    assert_close(ours, on_tensors, levels[0])
    assert_close(ours, on_pil, levels[1])


@pytest.mark.parametrize("name", [*GEOMETRY, "brightness", "contrast", "saturation", "hue"])
def test_pictures_are_those_of_the_device_path(name, images):
    made = view((GEOMETRY | COLOUR)[name])
    u = draw(made, images)
    assert_close(render_each(made, images, u), on_floats(made, images, u), (0.6, 0.8))


@pytest.mark.parametrize("name", ["jitter", "classify", "contrast view"])
def test_four_cut_fractions_are_all_that_parts_the_device_path(name):
    """Floats lose nothing between the steps of a jitter; uint8 loses half a level in each."""
    images = lesions()
    made = view(COLOUR[name])
    u = draw(made, images)
    assert_close(render_each(made, images, u), on_floats(made, images, u), (1.7, 3.0))


def test_skin_does_not_turn_green_where_its_hue_passes_zero():
    images = lesions()
    made = view([{"color_jitter": {"hue": 0.07}}])
    for drawn in (0.0, 0.999):  # to both sides
        u = np.tile([0.0, 0.0, 0.5, 0.5, 0.5, drawn], (len(images), 1))
        theirs = [
            by_torchvision(made, row, planar(picture))
            for row, picture in zip(u, images.pictures, strict=True)
        ]
        assert_close(render_each(made, images, u), theirs, (0.5, 0.8))


def test_all_pixels_of_what_is_not_changed_are_kept(images):
    steps = [
        {"hflip": {"p": 0}}, {"rotation": {"degrees": 0}}, {"color_jitter": JITTER | {"p": 0}},
        {"grayscale": {"p": 0}}, {"pad_crop": {"padding": 0}}, {"affine": {}},
    ]  # fmt: skip
    made = view(steps)
    ours = render_each(made, images, draw(made, images))
    for mine, picture in zip(ours, images.pictures, strict=True):
        np.testing.assert_array_equal(mine, picture)


def test_no_step_means_a_copy(images):
    made = view([])
    for mine, picture in zip(
        render_each(made, images, draw(made, images)), images.pictures, strict=True
    ):
        np.testing.assert_array_equal(mine, picture)


@pytest.mark.parametrize("steps", [
    [{"affine": {"degrees": 30, "translate": 0.1, "scale": [0.8, 1.2]}}],
    [{"random_resized_crop": {"size": 64}}, {"rand_augment": {"num_ops": 2}}],
    [{"rand_augment": {"num_ops": 2}}, {"affine": {"degrees": 10}}, {"hflip": {}}],
])  # fmt: skip
def test_steps_without_a_fast_form_use_their_own(steps, images):
    made = view(steps)
    u = draw(made, images)
    assert_close(render_each(made, images, u), on_floats(made, images, u), (0.6, 1.5))


class Inverted(Transform):
    name = "inverted"

    def apply(self, images, parameters):
        return 1 - images


class Darker(Grayscale):
    def apply(self, images, parameters):
        return images / 2


@pytest.mark.parametrize(
    ("step", "expected"), [(Inverted(), lambda x: 255 - x), (Darker(p=1), lambda x: x / 2)]
)
def test_a_transform_of_ones_own_needs_nothing_more(step, expected, images):
    made = View([step])
    ours = render_each(made, images, draw(made, images))
    theirs = [expected(picture.astype(float)) for picture in images.pictures]
    assert_close(ours, theirs, (0.5, 0.5))


@pytest.mark.parametrize("steps", [
    PAPER["contrast"],
    PAPER["classify"],
    PAPER["strong"],
    [*TURN, {"affine": {"translate": 0.1}}, {"color_jitter": JITTER}, {"resize": {"size": 99}}],
])  # fmt: skip
def test_pictures_do_not_depend_on_their_company(steps, images):
    made = view(steps)
    u = draw(made, images)
    host = HostView(made, images)
    alone = render_each(made, images, u)
    order = np.random.default_rng(0).permutation(len(images))
    out = np.zeros(host.batch_shape(order), np.uint8)
    host.render(order, u[order], out)
    for number, picture in zip(order, out, strict=True):
        np.testing.assert_array_equal(picture, alone[number])


def test_sources_are_never_written_to():
    images = lesions(count=4)
    before = [picture.copy() for picture in images.pictures]
    for steps in [*GEOMETRY.values(), *COLOUR.values()]:
        made = view(steps)
        render_each(made, images, draw(made, images))
    for picture, old in zip(images.pictures, before, strict=True):
        np.testing.assert_array_equal(picture, old)


@pytest.mark.parametrize("steps", [*GEOMETRY.values(), *COLOUR.values(), PAPER["strong"]])
def test_planar_pictures_are_as_good(steps, images):
    alike = [lesion(number, 200, 210, images.channels) for number in range(3)]
    made = view(steps)
    u = made.draw(1, stream=0, epoch=0, indices=np.arange(3))
    arrays = ArrayImages(np.stack(alike).transpose(0, 3, 1, 2))
    for ours, theirs in zip(
        render_each(made, arrays, u), render_each(made, RaggedImages(alike), u), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_prepared_pictures_take_the_place_of_the_first_resize():
    kept = RaggedImages([lesion(100 + number, 64, 64) for number in range(4)])
    images = RaggedImages(lesions(count=4).pictures, {(64, 64): kept})
    made = view([{"resize": {"size": 64}}, {"hflip": {}}])
    u = np.array([[0.9], [0.1], [0.9], [0.1]])
    for number, picture in enumerate(render_each(made, images, u)):
        expected = kept.pictures[number][:, ::-1] if u[number, 0] < 0.5 else kept.pictures[number]
        np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize("steps", [
    [{"resize": {"size": 64, "short_side": True}}, {"center_crop": {"size": 64}}],
    [{"hflip": {}}, {"resize": {"size": 64}}],
    [{"resize": {"size": 65}}],
])  # fmt: skip
def test_prepared_pictures_stand_for_nothing_else(steps):
    kept = RaggedImages([np.zeros((64, 64, 3), np.uint8)] * 4)
    images = RaggedImages(lesions(count=4).pictures, {(64, 64): kept})
    made = view(steps)
    assert all(picture.any() for picture in render_each(made, images, draw(made, images)))


def test_sizes_are_known_before_a_picture_is_made(images):
    short = HostView(view([{"resize": {"size": 50, "short_side": True}}]), images)
    assert short.output_sizes.dtype == np.int64
    assert short.output_sizes[:4].tolist() == [[50, 64], [50, 50], [50, 66], [75, 50]]
    crop = HostView(view([{"random_resized_crop": {"size": 50}}]), images)
    assert (crop.output_sizes == 50).all()
    assert crop.batch_shape(np.arange(3)) == (3, 50, 50, images.channels)
    with pytest.raises(UsageError, match="views have one size"):
        short.batch_shape(np.arange(3))


def test_pictures_too_small_for_a_view_are_refused_at_once(images):
    with pytest.raises(UsageError, match="181 x 233"):
        HostView(view([{"center_crop": {"size": 200}}]), images)


@pytest.mark.parametrize(("out", "words"), [
    (np.zeros((2, 50, 50, 3), np.float32), 22),
    (np.zeros((2, 50, 51, 3), np.uint8), 22),
    (np.zeros((3, 50, 50, 3), np.uint8), 22),
    (np.zeros((2, 50, 100, 3), np.uint8)[:, :, ::2], 22),
    (np.zeros((2, 50, 50, 3), np.uint8), 21),
])  # fmt: skip
def test_wrong_arrays_are_refused(out, words):
    host = HostView(view([{"random_resized_crop": {"size": 50}}]), lesions(count=2))
    with pytest.raises(ValueError, match=r"\(2, (50, 50, 3|22)\)"):
        host.render(np.arange(2), np.zeros((2, words)), out)


def drawn_plan(step, kind, count, sizes=((224, 224),)):
    u = View([step]).draw(7, stream=3, epoch=1, indices=np.arange(count))
    return kind.plan(u, 3, np.resize(np.array(sizes), (count, 2)))


def facts_of(boxes):
    """Place, area and ratio."""
    top, left, height, width = boxes.T
    return top, left, height * width, width / height


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.8, 1.0)])
def test_boxes_are_drawn_as_torchvision_does(scale):
    (step,) = view([{"random_resized_crop": {"size": 224, "scale": scale}}]).transforms
    sizes = [(450, 600), (256, 256), (256, 341)]
    boxes = np.array(drawn_plan(step, HostRandomResizedCrop(step), 6000, sizes))
    torch.manual_seed(0)
    for number, size in enumerate(sizes):
        theirs = v2.RandomResizedCrop(224, scale=scale)
        image = torch.empty(1, *size)
        drawn = [theirs.make_params([image]) for _ in range(2000)]
        expected = np.array([[d["top"], d["left"], d["height"], d["width"]] for d in drawn])
        mine = boxes[number::3]
        for a, b in zip(facts_of(mine), facts_of(expected), strict=True):
            assert stats.ks_2samp(a, b).pvalue > 1e-3


def test_the_fallback_is_as_frequent_as_torchvisions():
    (step,) = view([{"random_resized_crop": {"size": 224, "scale": [0.8, 1.0]}}]).transforms
    whole = [0, 0, 450, 600]  # 4:3 is still an allowed ratio
    mine = sum(
        box == whole for box in drawn_plan(step, HostRandomResizedCrop(step), 4000, [(450, 600)])
    )
    torch.manual_seed(1)
    theirs = v2.RandomResizedCrop(224, scale=(0.8, 1.0))
    image = torch.empty(1, 450, 600)
    drawn = sum(list(theirs.make_params([image]).values()) == whole for _ in range(4000))
    assert 0.09 < mine / 4000 < 0.15
    assert stats.fisher_exact([[mine, 4000 - mine], [drawn, 4000 - drawn]]).pvalue > 1e-3


def test_orders_and_factors_of_the_jitter_are_uniform():
    (step,) = view([{"color_jitter": JITTER | {"hue": 0.5}}]).transforms
    plans = drawn_plan(step, HostColorJitter(step), 6000)
    whole = [plan for plan in plans if len(plan) == 4]  # a hue of 0 is left out
    assert len(whole) > 5900
    orders = [tuple(kind for kind, _ in plan) for plan in whole]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
    for kind in range(3):
        factors = [dict(plan)[kind] for plan in whole]
        assert stats.kstest(factors, stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3
    hues = np.bincount([int(dict(plan)[3]) for plan in whole], minlength=256)[1:]
    assert stats.chisquare(hues).pvalue > 1e-3


def test_angles_are_uniform_and_counter_clockwise():
    (step,) = view([{"rotation": {"degrees": 90}}]).transforms
    maps = np.array(drawn_plan(step, HostTurn([step]), 3000))
    angles = np.degrees(np.arctan2(-maps[:, 0, 1], maps[:, 0, 0]))
    assert stats.kstest(angles, stats.uniform(-90, 180).cdf).pvalue > 1e-3
    picture = np.zeros((9, 9, 1), np.uint8)
    picture[4, 8] = 255  # at three o'clock
    made = view([{"rotation": {"degrees": 180}}])
    (turned,) = render_each(made, RaggedImages([picture]), np.array([[0.75]]))  # +90 degrees
    assert turned[0, 4] == 255  # at twelve
    assert turned.sum() == 255


@pytest.mark.parametrize(("step", "kind", "p"), [
    ({"hflip": {"p": 0.3}}, lambda step: HostTurn([step]), 0.3),
    ({"vflip": {}}, lambda step: HostTurn([step]), 0.5),
    ({"color_jitter": JITTER | {"p": 0.8}}, HostColorJitter, 0.8),
    ({"grayscale": {"p": 0.2}}, HostGrayscale, 0.2),
])  # fmt: skip
def test_steps_change_their_share_of_the_pictures(step, kind, p):
    (step,) = view([step]).transforms
    plan = drawn_plan(step, kind(step), 4000)
    changed = sum(one is not None for one in plan)
    assert stats.binomtest(changed, 4000, p).pvalue > 1e-3
