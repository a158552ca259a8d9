"""Backbones: timm's without their heads, and the small CIFAR-style ResNets that timm lacks."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltbench.errors import DataMissingError, UsageError
from ltbench.registry import suggest

CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56)
CIFAR_RESNETS = {f"resnet{depth}_cifar": depth for depth in CIFAR_DEPTHS}

_PROBE_S = 10.0  # how long the hub may take to answer its first question


class Backbone(nn.Module):
    """Images (B, channels, height, width) to pooled features (B, num_features)."""

    def __init__(self, net: nn.Module, num_features: int) -> None:
        super().__init__()
        self.net = net
        self.num_features = num_features

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features."""
        features: Tensor = self.net(images)
        return features

    def split_last_block(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """(trunk, last residual block, pooling to (B, num_features)), sharing this net's weights.

        Raises:
            UsageError: the net is not a ResNet with stages `layer1`, `layer2`, ...
        """
        stem = [part for part in ("conv1", "bn1", "act1", "maxpool") if hasattr(self.net, part)]
        stages = [f"layer{i}" for i in range(1, 9) if hasattr(self.net, f"layer{i}")]
        if len(stem) < 3 or not stages or not hasattr(self.net, "global_pool"):
            raise UsageError(
                f"backbone: {type(self.net).__name__} has no last residual block that can be "
                "doubled; expected a ResNet, such as resnet50 or resnet32_cifar."
            )
        *body, last = [getattr(self.net, stage) for stage in stages]
        pool: nn.Module = self.net.get_submodule("global_pool")
        parts = [*(getattr(self.net, part) for part in stem), *body, *list(last)[:-1]]
        return nn.Sequential(*parts), last[-1], pool


class BackboneFactory:
    """Makes backbones of one kind, all with the same initial weights where those are pre-trained.

    Args:
        name: a timm model name, or one of `CIFAR_RESNETS`.
        in_channels: channels of the pictures.
        weights: "none", a timm tag (`resnet50.tv_in1k`), or the path of a state dict.

    Raises:
        UsageError: unknown name, or weights of another architecture.
        DataMissingError: the weights are not here and cannot be fetched.
    """

    def __init__(self, name: str, in_channels: int, weights: str = "none") -> None:
        self.name = name
        self.in_channels = in_channels
        self.weights = weights
        self._build = self._builder()
        self._state = self._load_state()
        self._start: dict[str, Tensor] | None = None

    def __call__(self) -> Backbone:
        """A new backbone."""
        net, num_features = self._build()
        state = self._state if self._start is None else self._start
        if state is not None:
            net.load_state_dict(state)
        return Backbone(net, num_features)

    def start_from(self, state: dict[str, Tensor], name: str) -> None:
        """Make backbones with these weights from now on, whatever `weights` was.

        Args:
            state: by name, as in the net itself.
            name: of these weights, for messages.

        Raises:
            UsageError: they are another architecture's.
        """
        self._start = self._fit_state(state, name)

    @property
    def from_file(self) -> bool:
        """Whether `weights` is the path of a file."""
        return self.weights != "none" and self._tag() is None

    @property
    def weights_digest(self) -> str | None:
        """SHA-256 of the pre-trained weights, name by name; None for random initialisation."""
        return None if self._state is None else state_digest(self._state)

    def input_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std of the inputs the backbone was made for, on the scale 0..1."""
        mean: tuple[float, ...] = (0.5, 0.5, 0.5)
        std = mean
        if self.name not in CIFAR_RESNETS:
            import timm

            config = timm.get_pretrained_cfg(self._tag() or self.name)
            mean, std = (config.mean, config.std) if config else (mean, std)
        if len(mean) == self.in_channels:
            return tuple(mean), tuple(std)
        return (sum(mean) / len(mean),) * self.in_channels, (
            sum(std) / len(std),
        ) * self.in_channels

    def _tag(self) -> str | None:
        if self.weights == "none" or Path(self.weights).is_file():
            return None
        return self.weights

    def _builder(self) -> Callable[[], tuple[nn.Module, int]]:
        if self.name in CIFAR_RESNETS:
            depth, in_channels = CIFAR_RESNETS[self.name], self.in_channels
            return lambda: (net := CifarResNet(depth, in_channels), net.num_features)
        import timm

        if not timm.is_model(self.name):
            raise UsageError(suggest("backbone", self.name, backbone_names()))

        def build() -> tuple[nn.Module, int]:
            net = timm.create_model(self.name, num_classes=0, in_chans=self.in_channels)
            num_features: Any = net.num_features
            return net, int(num_features)

        return build

    def _load_state(self) -> dict[str, Tensor] | None:
        if self.weights == "none":
            return None
        if Path(self.weights).is_file():
            return self._fit_state(read_state(Path(self.weights)), f"weights: {self.weights}")
        if self.weights.endswith((".pt", ".pth", ".bin", ".safetensors")) or "/" in self.weights:
            raise DataMissingError(
                f"weights: no file {self.weights}. Give the path of a state dict, a timm tag such "
                "as resnet50.tv_in1k, or 'none' for random initialisation."
            )
        if self.name in CIFAR_RESNETS or self.weights.split(".")[0] != self.name.split(".")[0]:
            raise UsageError(
                f"weights: '{self.weights}' does not belong to backbone '{self.name}'. Expected a "
                f"tag that starts with '{self.name}.', a file, or 'none'."
            )
        return self._fetch(self.weights)

    def _fetch(self, tag: str) -> dict[str, Tensor]:
        import timm

        if tag not in (tags := timm.list_pretrained(f"{self.name.split('.')[0]}.*")):
            raise UsageError(suggest("weights", tag, tags))
        try:
            _check_hub(timm.get_pretrained_cfg(tag))
            net = timm.create_model(tag, pretrained=True, num_classes=0, in_chans=self.in_channels)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataMissingError(
                f"weights: the pre-trained weights '{tag}' are not here and could not be fetched "
                f"({reason}). Fetch them on a machine with network (they are kept in the Hugging "
                f"Face cache), give a file with --weights FILE, or train from random weights with "
                "--weights none."
            ) from error
        state: dict[str, Tensor] = net.state_dict()
        return state

    def _fit_state(self, state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """Leave out the classifier; every other tensor must fit."""
        net, _ = self._build()
        wanted = net.state_dict()
        head = re.compile(r"^(fc|head|classifier|head_drop)\.")
        # Some nets have features under such a name too (ConvNeXt's `head.norm`).
        given = {k: value for k, value in state.items() if k in wanted or not head.match(k)}
        missing = sorted(set(wanted) - set(given))
        unknown = sorted(set(given) - set(wanted))
        shapes = [k for k in wanted if k in given and wanted[k].shape != given[k].shape]
        if missing or unknown or shapes:
            raise UsageError(
                f"{name} does not fit backbone '{self.name}' with "
                f"{self.in_channels} input channels: {len(missing)} tensors missing "
                f"{missing[:3]}, {len(unknown)} unknown {unknown[:3]}, {len(shapes)} of another "
                f"shape {shapes[:3]}."
            )
        return given


@functools.cache
def check_images(name: str, in_channels: int, height: int, width: int) -> None:
    """Send a picture of zeros through a backbone of this name.

    Raises:
        UsageError: it does not take pictures of this size.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        backbone = BackboneFactory(name, in_channels)().eval()
        try:
            backbone(torch.zeros(1, in_channels, height, width))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UsageError(
                f"backbone '{name}' does not take the recipe's pictures of {height} x {width}: "
                f"{error} Choose another backbone, or other `views`."
            ) from error


def read_state(file: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors or `torch.save` file; tensors only, no pickled code."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(
            f"weights: {file} cannot be read as a state dict ({type(error).__name__}). Expected "
            "a .safetensors file or tensors saved by torch.save."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UsageError(
            f"weights: {file} holds a {type(state).__name__}, but not of tensors by name. Expected "
            "what `torch.save(net.state_dict(), file)` writes."
        )
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _check_hub(config: Any) -> None:
    """Raise at once where the weights are not in the cache and their hub cannot be reached.

    timm's own download tries again and again, which takes most of a minute without a network. One
    short question tells; whoever has an answer, even a slow one, gets timm's patience.
    """
    import huggingface_hub as hub

    if not config.hf_hub_id:
        return
    named = config.hf_hub_filename
    files = (named,) if named else ("model.safetensors", "pytorch_model.bin")
    if any(isinstance(hub.try_to_load_from_cache(config.hf_hub_id, f), str) for f in files):
        return
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(config.hf_hub_id, files[0]), timeout=_PROBE_S)
    except Exception as error:
        # By name, because the hub's client has changed the library these errors come from.
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & {"ConnectError", "ConnectTimeout", "ProxyError", "OfflineModeIsEnabled"}:
            raise


def state_digest(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in sorted order of names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def backbone_names() -> list[str]:
    """Every backbone's name: ours first, then timm's."""
    import timm

    return [*CIFAR_RESNETS, *timm.list_models()]


class CifarResNet(nn.Module):
    """ResNet for small pictures (He et al. 2016, section 4.2), as the CIFAR-LT literature uses it.

    Depth 6n+2: a 3x3 convolution, three stages of n basic blocks with 16, 32, 64 channels, the
    second and third starting with stride 2, global average pooling. Shortcuts are parameter-free
    (type A: subsampling and zero channels), so ResNet-32 has 463,504 parameters on RGB pictures.
    """

    def __init__(self, depth: int, in_channels: int = 3) -> None:
        super().__init__()
        num_blocks = (depth - 2) // 6
        self.num_features = 64
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU(inplace=True)
        self.layer1 = self._stage(16, 16, num_blocks, stride=1)
        self.layer2 = self._stage(16, 32, num_blocks, stride=2)
        self.layer3 = self._stage(32, 64, num_blocks, stride=2)
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
        blocks = [BasicBlock(in_channels, channels, stride)]
        blocks += [BasicBlock(channels, channels, 1) for _ in range(num_blocks - 1)]
        return nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (B, 64)."""
        x: Any = self.act1(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        pooled: Tensor = self.global_pool(x)
        return pooled


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a parameter-free shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.new_channels = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps, halved in size where stride is 2."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            half = self.new_channels // 2
            x = F.pad(x, (0, 0, 0, 0, half, self.new_channels - half))
        return F.relu(out + x, inplace=True)
