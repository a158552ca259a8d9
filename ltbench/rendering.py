"""How the pictures of a run become inputs: where views are made, of what size and statistics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ltbench.data.feed import Part
from ltbench.dataset import Images, Source
from ltbench.errors import UsageError
from ltbench.run_config import RunConfig
from ltbench.training.devices import device_kind
from ltbench.views.device import can_render
from ltbench.views.transforms import Shape
from ltbench.views.view import View

__all__ = ["output_shape", "pixel_statistics", "resolved_render"]


def pixel_statistics(part: Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of a part's pixels by channel, on the scale 0..1, from exact integer sums."""
    images = part.pictures()
    total, squares, count = np.zeros(images.channels), np.zeros(images.channels), 0
    for pixels in _blocks(images):
        total += pixels.sum(axis=0)
        squares += (pixels**2).sum(axis=0)
        count += len(pixels)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1.0))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _blocks(images: Images) -> Iterator[np.ndarray]:
    """All pixels, int64 (n, channels) at a time."""
    if images.on_disk:
        for position in range(len(images)):
            yield images.picture(position).reshape(-1, images.channels).astype(np.int64)
        return
    for start in range(0, len(images), 1024):
        some = images.take(np.arange(start, min(start + 1024, len(images)))).numpy()
        yield some.transpose(0, 2, 3, 1).reshape(-1, images.channels).astype(np.int64)


def resolved_render(config: RunConfig, source: Source) -> str:
    """Where views are made: "host" (8-bit, on CPU cores) or "device" (float32, in batches).

    Raises:
        UsageError: the device was asked for, and cannot batch pictures of these sizes.
    """
    drawn = {name: View(steps) for name, steps in config.views.items()}
    _refuse_ragged(drawn.get("classify"), source.images)
    stuck = [name for name, view in drawn.items() if not can_render(view, source.images)]
    if config.render == "host":
        return "host"
    if config.render == "auto":
        on_cpu = device_kind(config.machine) == "cpu"
        return "host" if source.images.on_disk and (on_cpu or stuck) else "device"
    if stuck:
        raise UsageError(
            f"render is 'device', but the pictures differ in size and view '{stuck[0]}' begins "
            "with no step that makes them one size. Begin it with a resize or a "
            "random_resized_crop, or use render=host."
        )
    return "device"


def _refuse_ragged(view: View | None, images: Images) -> None:
    """Pictures of one batch must come out at one size."""
    sizes = np.unique(images.sizes, axis=0).tolist()
    if view is None or view.settles_size or len(sizes) <= 1:
        return
    made = {view.output_shape((images.channels, height, width)) for height, width in sizes}
    if len(made) > 1:
        raise UsageError(
            f"The pictures have {len(sizes)} sizes, and the recipe's view 'classify' keeps "
            f"{len(made)} of them apart. Begin it with a resize or a random_resized_crop, or "
            "choose a recipe that does, such as ecl_paper."
        )


def output_shape(view: View, images: Images) -> Shape:
    """(channels, height, width) of a view's pictures; of the first, where a view keeps sizes."""
    height, width = (int(side) for side in images.sizes[0])
    return view.output_shape((images.channels, height, width))
