import hashlib

import numpy as np
import pytest
import torch

from ltbench.data.images import ArrayImages
from ltbench.errors import VerificationError


def pixels(num_images: int = 5) -> np.ndarray:
    return np.arange(num_images * 2 * 3 * 4, dtype=np.uint8).reshape(num_images, 2, 3, 4)


def test_addresses_pictures_by_position():
    images = ArrayImages(pixels())
    assert len(images) == 5
    assert images.shape == (2, 3, 4)
    assert images.tensor.dtype == torch.uint8
    taken = images.take(np.array([3, 0, 3]))
    assert taken.dtype == torch.uint8
    np.testing.assert_array_equal(taken.numpy(), pixels()[[3, 0, 3]])
    assert images.take(np.array([], dtype=np.int64)).shape == (0, 2, 3, 4)
    with pytest.raises(IndexError):
        images.take(np.array([5]))


def test_taken_pictures_are_copies():
    images = ArrayImages(pixels())
    images.take(np.arange(5)).zero_()
    np.testing.assert_array_equal(images.tensor.numpy(), pixels())


def test_does_not_share_memory_with_the_array():
    array = pixels()
    array.setflags(write=False)
    images = ArrayImages(array)
    images.tensor[0] = 0
    np.testing.assert_array_equal(array, pixels())


def test_digest_is_over_shape_dtype_and_bytes():
    expected = hashlib.sha256(b"uint8 (5, 2, 3, 4)\n" + pixels().tobytes()).hexdigest()
    images = ArrayImages(pixels())
    assert images.digest() == images.digest() == expected
    assert ArrayImages(torch.from_numpy(pixels())).digest() == expected
    changed = pixels()
    changed[4, 1, 2, 3] ^= 1
    assert ArrayImages(changed).digest() != expected
    assert ArrayImages(pixels().reshape(5, 4, 3, 2)).digest() != expected


def test_digest_does_not_depend_on_memory_layout():
    turned = np.asfortranarray(pixels())
    assert ArrayImages(turned).digest() == ArrayImages(pixels()).digest()
    strided = torch.from_numpy(turned)
    assert not strided.is_contiguous()
    assert ArrayImages(strided).digest() == ArrayImages(pixels()).digest()


@pytest.mark.parametrize(
    "wrong", [pixels().astype(np.float32), pixels()[0], np.zeros((3, 1, 0, 2), dtype=np.uint8)]
)
def test_refuses_what_is_not_a_stack_of_pictures(wrong):
    with pytest.raises(VerificationError, match="Expected pictures as uint8"):
        ArrayImages(wrong)
