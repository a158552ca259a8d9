"""Traps for what must not happen inside a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_SYNCING_OPS = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::is_nonzero",
    "aten::bincount",
    "aten::histc",
)
_SYNCING_METHODS = ("cpu", "numpy", "tolist")


class HostSyncError(AssertionError):
    """Something in the step waited for the device."""


class _Trap(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises on operations that would wait for a CUDA device, also where tensors are on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        masked = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        # Without `output_size` it has to look how long its result is.
        unsized = name == "aten::repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in _SYNCING_OPS or masked or unsized:
            raise HostSyncError(
                f"{name}{' with a boolean mask' if masked else ''} waits for the device inside the "
                "training step. Keep the value on the device (torch.where, multiplication by a "
                "mask), or move the computation to a hook between epochs."
            )
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_sync() -> Iterator[None]:
    """Raise `HostSyncError` on .item(), bool(), .cpu(), .to("cpu"), .numpy(), boolean masks, ..."""
    kept = {name: getattr(torch.Tensor, name) for name in (*_SYNCING_METHODS, "to")}

    def forbidden(name: str) -> Callable[..., Any]:
        def trap(*_: Any, **__: Any) -> Any:
            raise HostSyncError(f"Tensor.{name}() waits for the device inside the training step.")

        return trap

    def moved(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # By name only: a device taken from another tensor is the run's own, here the CPU.
        if "cpu" in [d for d in (*args[:1], kwargs.get("device")) if isinstance(d, str)]:
            raise HostSyncError("Tensor.to('cpu') waits for the device inside the training step.")
        return kept["to"](tensor, *args, **kwargs)

    for name in _SYNCING_METHODS:
        setattr(torch.Tensor, name, forbidden(name))
    torch.Tensor.to = moved  # type: ignore[assignment, method-assign]
    try:
        with _Trap():  # type: ignore[no-untyped-call]
            yield
    finally:
        for name, original in kept.items():
            setattr(torch.Tensor, name, original)
