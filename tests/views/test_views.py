"""Views against torchvision: the same drawn parameters, one picture at a time, on floats."""

import json
import math
from itertools import permutations

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError
from scipy import stats
from torch.nn.functional import avg_pool2d
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tv

from ltbench.data import philox
from ltbench.errors import UsageError
from ltbench.views.transforms import Parameters
from ltbench.views.view import TRANSFORMS, View, ViewSpec

GREY_LEVEL = 1 / 255


class Recipe(BaseModel):
    views: dict[str, ViewSpec]


def view(*steps):
    return View(Recipe(views={"v": steps}).views["v"])


def pictures(batch=12, channels=3, height=40, width=48):
    """Smooth enough to be like pictures, with every hue and both black and white in them."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(batch, channels, height + 2, width + 2, generator=generator)
    smooth = ((avg_pool2d(noise, 3, stride=1) - 0.5) * 3 + 0.5).clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8)


def draw(made, batch=12, seed=0):
    return made.draw(seed, stream=1, epoch=2, indices=np.arange(batch))


def parameters(made, u, shape=(3, 40, 48)):
    """What the only transform of the view drew."""
    return made.transforms[0].parameters(u, shape)


def floats(images):
    return images.float() / 255


def assert_close(ours, theirs, tolerance):
    assert ours.dtype == torch.float32
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance


def test_affine_agrees_with_torchvision():
    made = view({"affine": {"degrees": 30, "translate": 0.2, "scale": [0.7, 1.3]}})
    images, u = pictures(), draw(made)
    theirs = [
        tv.affine(
            image,
            angle=30 * (2 * a - 1),
            translate=[0.2 * 48 * (2 * x - 1), 0.2 * 40 * (2 * y - 1)],
            scale=0.7 + 0.6 * s,
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        for image, (a, x, y, s) in zip(floats(images), u.tolist(), strict=True)
    ]
    assert_close(made.render(images, u), torch.stack(theirs), 1e-4)


def test_affine_border_padding_repeats_the_edge():
    images = torch.full((4, 1, 8, 8), 200, dtype=torch.uint8)
    settings = {"degrees": 20, "translate": 0.3}
    for padding, lowest in (("border", 200 / 255), ("zeros", 0.0)):
        made = view({"affine": settings | {"padding": padding}})
        assert made.render(images, draw(made, 4)).min() == pytest.approx(lowest, abs=1e-6)


@pytest.mark.parametrize("shape", [(40, 48), (48, 40), (40, 40)])
def test_rotation_agrees_with_torchvision_on_nearly_all_pixels(shape):
    made = view({"rotation": {"degrees": 90}})
    images, u = pictures(height=shape[0], width=shape[1]), draw(made)
    theirs = [
        tv.rotate(image, 90 * (2 * a - 1), InterpolationMode.NEAREST, fill=0)
        for image, a in zip(floats(images), u[:, 0].tolist(), strict=True)
    ]
    same = (made.render(images, u) - torch.stack(theirs)).abs() < 1e-6
    assert same.float().mean() > 0.999


def test_rotation_turns_counter_clockwise():
    images = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    images[0, 0, 4, 8] = 255  # at three o'clock
    made = view({"rotation": {"degrees": 180}})
    turned = made.render(images, np.array([[0.75]]))  # +90 degrees
    assert turned[0, 0, 0, 4] == 1  # at twelve
    assert turned.sum() == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_pad_crop_agrees_with_torchvision(channels):
    made = view({"pad_crop": {"padding": 4}})
    images, u = pictures(channels=channels), draw(made)
    corners = np.floor(u * 9).astype(int)
    theirs = [
        tv.crop(tv.pad(image, [4, 4, 4, 4]), int(top), int(left), 40, 48)
        for image, (top, left) in zip(floats(images), corners, strict=True)
    ]
    assert torch.equal(made.render(images, u), torch.stack(theirs))


def test_pad_crop_reaches_every_offset_equally():
    made = view({"pad_crop": {"padding": 2}})
    corners = parameters(made, draw(made, 5000)).astype(int)
    counts = np.bincount(corners[:, 0] * 5 + corners[:, 1], minlength=25)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("name", "flip"), [("hflip", tv.hflip), ("vflip", tv.vflip)])
def test_flips_mirror_their_share_of_the_pictures(name, flip):
    made = view({name: {"p": 0.3}})
    images, u = pictures(), draw(made)
    chosen = torch.from_numpy(u[:, 0] < 0.3)
    assert 0 < chosen.sum() < 12
    theirs = floats(images)
    theirs[chosen] = flip(theirs[chosen])
    assert torch.equal(made.render(images, u), theirs)
    assert parameters(made, draw(made, 5000)).mean() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": 24}, [24, 24]),
        ({"size": 60}, [60, 60]),
        ({"size": 24, "short_side": True}, [24]),
        ({"size": 33, "short_side": True}, [33]),
    ],
)
@pytest.mark.parametrize("shape", [(40, 48), (50, 31)])
def test_resize_agrees_with_torchvision(settings, size, shape):
    images = pictures(height=shape[0], width=shape[1])
    made = view({"resize": settings})
    theirs = tv.resize(floats(images), size, antialias=True)
    assert made.output_shape((3, *shape)) == tuple(theirs.shape[1:])
    assert_close(made.render(images, draw(made)), theirs, 1e-6)


@pytest.mark.parametrize("shape", [(40, 48), (41, 32)])
def test_center_crop_agrees_with_torchvision(shape):
    images = pictures(height=shape[0], width=shape[1])
    made = view({"center_crop": {"size": 31}})
    assert torch.equal(made.render(images, draw(made)), tv.center_crop(floats(images), [31]))


@pytest.mark.parametrize("size", [16, 56])
def test_random_resized_crop_agrees_with_torchvision(size):
    made = view({"random_resized_crop": {"size": size, "scale": [0.1, 1.0]}})
    images, u = pictures(), draw(made)
    boxes = parameters(made, u).astype(int)
    assert len(np.unique(boxes, axis=0)) > 6
    theirs = [
        tv.resized_crop(image, *map(int, box), [size, size], antialias=True)
        for image, box in zip(floats(images), boxes, strict=True)
    ]
    ours = made.render(images, u)
    # Far inside the one grey level that would do: the same filter, summed in another order.
    assert_close(ours, torch.stack(theirs), GREY_LEVEL / 10)
    assert made.output_shape((3, 40, 48)) == (3, size, size)


def reference_box(u, size, scale, ratio):
    """torchvision's `RandomResizedCrop.make_params`, reading our numbers, try after try."""
    height, width = size
    for area, shape in zip(u[:10], u[10:20], strict=True):
        target = height * width * (scale[0] + area * (scale[1] - scale[0]))
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(low + shape * (high - low))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(u[20] * (height - h + 1)), int(u[21] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(224, 224), (450, 600), (100, 200), (200, 90)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.8, 1.0)])
def test_random_resized_crop_takes_the_first_try_that_fits(size, scale):
    made = view({"random_resized_crop": {"size": 224, "scale": scale}})
    u = draw(made, 500)
    expected = [reference_box(row, size, scale, (3 / 4, 4 / 3)) for row in u.tolist()]
    np.testing.assert_array_equal(parameters(made, u, (3, *size)), expected)


@pytest.mark.parametrize("size", [(224, 224), (450, 600)])
def test_random_resized_crop_draws_boxes_like_torchvision(size):
    made = view({"random_resized_crop": {"size": 224, "scale": [0.3, 1.0]}})
    top, left, height, width = parameters(made, draw(made, 3000), (3, *size)).T
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(224, scale=(0.3, 1.0))
    image = torch.empty(3, *size)
    drawn = [theirs.make_params([image]) for _ in range(1500)]
    b = {key: np.array([box[key] for box in drawn]) for key in drawn[0]}
    pairs = [
        (height * width, b["height"] * b["width"]),
        (width / height, b["width"] / b["height"]),
        (top, b["top"]),
        (left, b["left"]),
    ]
    for ours, reference in pairs:
        assert stats.ks_2samp(ours, reference).pvalue > 1e-3
        quantiles = [0.1, 0.5, 0.9]
        spread = reference.std()
        np.testing.assert_allclose(ours.mean(), reference.mean(), atol=0.12 * spread)
        np.testing.assert_allclose(
            np.quantile(ours, quantiles), np.quantile(reference, quantiles), atol=0.25 * spread
        )


def test_random_resized_crop_falls_back_as_often_as_it_should():
    made = view({"random_resized_crop": {"size": 224, "scale": [0.8, 1.0]}})

    def share_of_fallbacks(size, box):
        boxes = parameters(made, draw(made, 4000), (3, *size))
        return (boxes == box).all(axis=1).mean()

    # At 2:1 no box of 80% of the area has a ratio up to 4/3.
    assert share_of_fallbacks((100, 200), (0, 33, 100, 133)) == 1
    # At 4:3 the whole picture, after ten misses (or, rarely, drawn).
    assert share_of_fallbacks((450, 600), (0, 0, 450, 600)) == pytest.approx(0.12, abs=0.02)
    assert share_of_fallbacks((224, 224), (0, 0, 224, 224)) == pytest.approx(0.008, abs=0.006)


JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
ORDERS = list(permutations(range(4)))


def torchvision_jitter(image, u, settings, p=1.0):
    """The same numbers through torchvision's functions: whether, order, factors, hue."""
    if u[0] >= p:
        return image
    strengths = [settings.get(key, 0.0) for key in ("brightness", "contrast", "saturation")]
    factors = [
        max(0, 1 - s) + r * (1 + s - max(0, 1 - s)) for s, r in zip(strengths, u[2:5], strict=True)
    ]
    hue = settings.get("hue", 0.0)
    functions = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    active = [*(s > 0 for s in strengths), hue > 0]
    for step in ORDERS[int(u[1] * 24)]:
        if active[step]:
            number = hue * (2 * u[5] - 1) if step == 3 else factors[step]
            image = functions[step](image, number)
    return image


@pytest.mark.parametrize(
    "settings",
    [
        JITTER,
        {"hue": 0.5},
        {"brightness": 0.9, "contrast": 0.9},
        {"brightness": 3.0, "contrast": 3.0, "saturation": 3.0, "hue": 0.3},
        {"saturation": 1.0},
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_agrees_with_torchvision(settings, channels):
    made = view({"color_jitter": settings})
    images, u = pictures(48, channels, 20, 20), draw(made, 48)
    assert len({int(row[1] * 24) for row in u}) > 12  # most of the orders
    theirs = [
        torchvision_jitter(image, row, settings)
        for image, row in zip(floats(images), u.tolist(), strict=True)
    ]
    assert_close(made.render(images, u), torch.stack(theirs), 1e-4)


def test_color_jitter_spares_its_share_of_the_pictures_bit_for_bit():
    made = view({"color_jitter": JITTER | {"p": 0.6}})
    images, u = pictures(48), draw(made, 48)
    changed = (made.render(images, u) != floats(images)).flatten(1).any(1)
    assert changed.tolist() == (u[:, 0] < 0.6).tolist()
    assert 20 < changed.sum() < 40


def test_color_jitter_draws_all_orders_alike():
    made = view({"color_jitter": JITTER})
    counts = np.bincount((draw(made, 5000)[:, 1] * 24).astype(int), minlength=24)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_switching_hue_off_leaves_the_other_factors_as_they_were():
    # Brightness alone: what hue is set to must not move the drawn factor.
    images = torch.full((6, 3, 4, 4), 100, dtype=torch.uint8)  # grey: hue has no effect
    with_hue = view({"color_jitter": {"brightness": 0.4, "hue": 0.2}})
    without = view({"color_jitter": {"brightness": 0.4}})
    u = draw(without, 6)
    assert_close(with_hue.render(images, u), without.render(images, u), 1e-6)


def test_grayscale_agrees_with_torchvision():
    made = view({"grayscale": {"p": 0.5}})
    images, u = pictures(), draw(made)
    theirs = floats(images)
    chosen = torch.from_numpy(u[:, 0] < 0.5)
    assert 0 < chosen.sum() < 12
    theirs[chosen] = tv.rgb_to_grayscale(theirs[chosen], num_output_channels=3)
    assert_close(made.render(images, u), theirs, 1e-6)


def test_on_one_channel_saturation_hue_and_grayscale_do_nothing():
    images = pictures(channels=1)
    made = view({"color_jitter": {"saturation": 0.9, "hue": 0.5}}, {"grayscale": {"p": 1.0}})
    assert torch.equal(made.render(images, draw(made)), floats(images))


def test_colour_refuses_other_numbers_of_channels():
    made = view({"color_jitter": JITTER})
    with pytest.raises(UsageError, match="1 or 3 channels, got 4"):
        made.render(pictures(channels=4), draw(made))


@pytest.mark.parametrize("magnitude", [0, 9, 15, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_agrees_with_torchvision_in_every_operation(magnitude, channels):
    reference = v2.RandAugment(magnitude=magnitude)
    made = view({"rand_augment": {"num_ops": 1, "magnitude": magnitude}})
    images = pictures(28, channels)
    # Each operation once with each sign.
    u = np.stack((np.repeat((np.arange(14) + 0.5) / 14, 2), np.tile([0.2, 0.8], 14)), axis=1)
    theirs = []
    for image, (which, sign) in zip(images, u.tolist(), strict=True):
        name, (values, signed) = list(reference._AUGMENTATION_SPACE.items())[int(which * 14)]
        bins = values(31, 40, 48)
        strength = 0.0 if bins is None else float(bins[magnitude])
        strength *= -1 if signed and sign < 0.5 else 1
        theirs.append(
            reference._apply_image_or_video_transform(
                image, name, strength, interpolation=InterpolationMode.NEAREST, fill={}
            )
        )
    differing = made.render(images, u) != floats(torch.stack(theirs))
    assert differing.float().mean() < 1e-3


def test_rand_augment_chooses_operations_and_signs_alike():
    made = view({"rand_augment": {}})
    drawn = parameters(made, draw(made, 4000))
    for operations in (drawn[:, 0], drawn[:, 2]):
        counts = np.bincount(operations.astype(int), minlength=14)
        assert stats.chisquare(counts).pvalue > 1e-3
    rotations = drawn[drawn[:, 0] == 5, 1]
    np.testing.assert_allclose(np.abs(rotations), 9)
    assert (rotations < 0).mean() == pytest.approx(0.5, abs=0.1)


LESIONS = (
    {"random_resized_crop": {"size": 32, "scale": [0.5, 1.0]}},
    {"hflip": {"p": 0.5}},
    {"vflip": {"p": 0.5}},
    {"rotation": {"degrees": 90}},
    {"color_jitter": JITTER | {"p": 0.8}},
    {"grayscale": {"p": 0.2}},
)
CIFAR = ({"pad_crop": {"padding": 4}}, {"hflip": None}, {"rand_augment": {"num_ops": 2}})
DIGITS = (
    {"affine": {"degrees": 10, "translate": 0.1, "scale": [0.9, 1.1]}},
    {"resize": {"size": 20}},
    {"color_jitter": {"brightness": 0.4, "contrast": 0.4}},
)


@pytest.mark.parametrize("steps", [LESIONS, CIFAR, DIGITS, ({"color_jitter": JITTER},)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_does_not_depend_on_its_batch_bit_for_bit(steps, channels):
    made = view(*steps)
    # Large enough that torch would split a reduction over one picture among its threads.
    images = pictures(9, channels, 200, 220)
    indices = np.array([4, 17, 2, 99, 5, 60_000, 0, 1, 3])
    u = made.draw(5, stream=2, epoch=7, indices=indices)
    whole = made.render(images, u)
    for some in ([0], [8], [3, 1], [8, 7, 6, 5, 4]):
        again = made.draw(5, stream=2, epoch=7, indices=indices[some])
        assert torch.equal(made.render(images[some], again), whole[some])


@pytest.mark.parametrize("steps", [LESIONS, CIFAR, DIGITS])
def test_rendering_stays_in_range_and_in_the_promised_shape(steps):
    made = view(*steps)
    images = pictures(32)
    out = made.render(images, draw(made, 32))
    assert out.dtype == torch.float32
    assert out.shape == (32, *made.output_shape((3, 40, 48)))
    assert torch.isfinite(out).all()
    assert out.min() >= 0
    assert out.max() <= 1


def test_numbers_come_from_philox_and_transforms_read_their_columns_in_turn():
    made = view(*LESIONS)
    indices = np.array([3, 1])
    u = made.draw(2**40, stream=6, epoch=1, indices=indices)
    assert u.shape == (2, made.num_words) == (2, 22 + 1 + 1 + 1 + 6 + 1)
    expected = philox.uniform(2**40, stream=6, epoch=1, index=indices, num_words=32)
    np.testing.assert_array_equal(u, expected)
    images = pictures(2)
    expected = View(made.transforms[:1]).render(images, u[:, :22])
    for column, dimension in ((22, -1), (23, -2)):
        mirrored = torch.from_numpy(u[:, column] < 0.5)
        expected[mirrored] = expected[mirrored].flip(dimension)
    assert torch.equal(View(made.transforms[:3]).render(images, u[:, :24]), expected)


def test_a_transform_is_told_the_size_the_one_before_it_leaves():
    images = pictures()
    resize, crop = {"resize": {"size": 21}}, {"random_resized_crop": {"size": 16}}
    both, u = view(resize, crop), draw(view(crop))
    small = view(resize).render(images, u[:, :0])
    boxes = parameters(view(crop), u, (3, 21, 21)).astype(int)
    theirs = [
        tv.resized_crop(image, *map(int, box), [16, 16], antialias=True)
        for image, box in zip(small, boxes, strict=True)
    ]
    assert_close(both.render(images, u), torch.stack(theirs), 1e-5)


@pytest.mark.parametrize(
    "steps",
    [
        (),
        ({"affine": {}},),
        ({"pad_crop": {"padding": 0}},),
        ({"hflip": {"p": 0}}, {"vflip": {"p": 0}}, {"grayscale": {"p": 0}}),
        ({"rotation": {"degrees": 0}},),
        ({"color_jitter": {}},),
        ({"color_jitter": JITTER | {"p": 0}},),
        ({"resize": {"size": 32}}, {"center_crop": {"size": 32}}),
        ({"random_resized_crop": {"size": 32, "scale": [1, 1], "ratio": [1, 1]}},),
    ],
)
def test_identity_settings_give_the_identical_picture(steps):
    images = pictures(height=32, width=32)
    made = view(*steps)
    assert torch.equal(made.render(images, draw(made)), floats(images))


def test_rendering_leaves_its_input_alone():
    for steps in (LESIONS, CIFAR, DIGITS, ()):
        made, images = view(*steps), pictures()
        kept = images.clone()
        made.render(images, draw(made))
        assert torch.equal(images, kept)


def test_autocast_does_not_coarsen_a_view():
    made = view(*LESIONS)
    images, u = pictures(), draw(made)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = made.render(images, u)
    assert torch.equal(inside, made.render(images, u))


STEPS = [{"center_crop": {"size": 30}}, {"pad_crop": {"padding": 2}}, *LESIONS, *DIGITS]


def test_no_transform_reads_a_tensor_on_the_host():
    # Tensors without data: whatever would need a value, and so a wait for the device, fails.
    shape, images = (3, 40, 48), torch.empty(12, 3, 40, 48, device="meta")
    for step in view(*STEPS).transforms:
        host = step.parameters(draw(View([step])), shape).astype(np.float32)
        images = step.apply(images, Parameters(host, torch.from_numpy(host).to("meta")))
        shape = (3, *step.output_size(shape[1:]))
        assert images.shape == (12, *shape)


def test_rendering_never_waits_for_the_device(monkeypatch):
    def trap(*_):
        raise AssertionError("a view read a tensor on the host")

    made = view(*STEPS)
    images, u = pictures(), draw(made)
    for name in ("item", "cpu", "numpy", "tolist", "__bool__", "__float__", "__int__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, trap)
    made.render(images, u)


def test_only_views_without_random_numbers_are_deterministic():
    assert view().deterministic
    assert view({"resize": {"size": 8}}, {"center_crop": {"size": 4}}).deterministic
    assert not view({"hflip": {"p": 0.5}}).deterministic


def test_wrong_input_is_refused():
    made = view({"hflip": {}})
    with pytest.raises(TypeError, match="uint8"):
        made.render(torch.rand(2, 3, 4, 4), draw(made, 2))
    with pytest.raises(ValueError, match="shape \\(2, 1\\)"):
        made.render(pictures(2), np.zeros((3, 1)))
    with pytest.raises(UsageError, match="Put a resize before it"):
        view({"center_crop": {"size": 64}}).output_shape((3, 40, 48))


def test_a_dumped_recipe_reads_back_as_itself():
    recipe = Recipe(views={"contrast": LESIONS, "strong": CIFAR, "classify": DIGITS, "eval": []})
    text = recipe.model_dump_json()
    again = Recipe.model_validate_json(text)
    assert again == recipe
    assert again.model_dump_json() == text
    assert Recipe(**recipe.model_dump()) == recipe
    assert json.loads(text)["views"]["contrast"][1] == {"hflip": {"p": 0.5}}


def test_one_setting_written_two_ways_dumps_alike():
    one = Recipe(views={"v": [{"affine": {"degrees": 10, "scale": [1, 1]}}]})
    other = Recipe(views={"v": [{"affine": {"degrees": "1e1", "padding": "zeros"}}]})
    assert one.model_dump_json() == other.model_dump_json()


def test_every_transform_is_known_by_its_name_and_rejects_unknown_settings():
    for name, kind in TRANSFORMS.items():
        assert kind.name == name
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            view({name: {"size": 8, "strength": 1}})


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"h_flop": {}}, "Unknown transform 'h_flop'. Did you mean 'hflip'"),
        ({"hflip": {"p": 1.5}}, "less than or equal to 1"),
        ({"hflip": {"p": -0.1}}, "greater than or equal to 0"),
        ({"hflip": {"p": math.nan}}, "finite"),
        ({"affine": {"scale": [1.1, 0.9]}}, "low <= high"),
        ({"affine": {"scale": [0, 1]}}, "greater than 0"),
        ({"affine": {"degrees": 200}}, "less than or equal to 180"),
        ({"affine": {"padding": "mirror"}}, "'zeros' or 'border'"),
        ({"random_resized_crop": {"size": 8, "scale": [0.5, 1.2]}}, "less than or equal to 1"),
        ({"random_resized_crop": {"size": 8, "scale": [1.0, 0.5]}}, "low <= high"),
        ({"resize": {"size": 0}}, "greater than 0"),
        ({"resize": {}}, "Field required"),
        ({"color_jitter": {"hue": 0.6}}, "less than or equal to 0.5"),
        ({"rand_augment": {"magnitude": 31}}, "less than or equal to 30"),
        ({"pad_crop": {"padding": 1.5}}, "integer"),
        ("hflip", "expected one transform as a mapping"),
        ({"hflip": {}, "vflip": {}}, "expected one transform as a mapping"),
    ],
)
def test_wrong_settings_are_refused(step, message):
    with pytest.raises(ValidationError) as error:
        view(step)
    assert message in str(error.value)


def test_all_problems_are_named_at_once_with_their_place():
    with pytest.raises(ValidationError) as error:
        Recipe(views={"a": [{"hflip": {"p": 2}}], "b": [{"resize": {"size": 8}}, {"flip": {}}]})
    places = [problem["loc"] for problem in error.value.errors()]
    assert places == [("views", "a", 0, "p"), ("views", "b", 1)]
