"""Backbones: sizes, where methods branch them, weights in and out, no waiting offline."""

from __future__ import annotations

import socket
import time

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ltbench import models
from ltbench.cell import prepare
from ltbench.config import resolve
from ltbench.errors import DataMissingError, UsageError
from ltbench.models import BackboneFactory, read_state, state_digest
from ltbench.runner import build_method
from ltbench.testing import interrupted_run, tiny_run
from ltbench.testing.tiny import tiny_request
from ltbench.training.devices import make_fabric


def pictures(channels=3, size=32, count=2):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


class TestCifarResNets:
    @pytest.mark.parametrize(
        ("name", "channels", "count"),
        # 3x3 stem, three stages, BatchNorm; parameter-free shortcuts and no classifier.
        [
            ("resnet32_cifar", 3, 463_504),
            ("resnet20_cifar", 3, 269_072),
            ("resnet32_cifar", 1, 463_216),
        ],
    )
    def test_number_of_parameters(self, name, channels, count):
        backbone = BackboneFactory(name, channels)()
        assert sum(p.numel() for p in backbone.parameters()) == count

    def test_features(self):
        backbone = BackboneFactory("resnet8_cifar", 3)()
        assert backbone(pictures()).shape == (2, backbone.num_features) == (2, 64)

    def test_shortcuts_pad_with_zero_channels_on_both_sides(self):
        """Type A: every second pixel, 8 zero channels before and 8 after 16 of them."""
        block = models.BasicBlock(16, 32, stride=2).eval()
        nn.init.zeros_(block.bn2.weight)
        x = torch.rand(1, 16, 6, 6)
        out = block(x)
        assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
        assert out[:, :8].abs().sum() == out[:, 24:].abs().sum() == 0


class TestTimm:
    def test_resnet50(self):
        backbone = BackboneFactory("resnet50", 3)()
        assert backbone.num_features == 2048
        assert not [name for name, _ in backbone.named_parameters() if name.startswith("net.fc")]
        assert sum(p.numel() for p in backbone.parameters()) == 23_508_032

    def test_statistics_of_the_inputs(self):
        mean, std = BackboneFactory("resnet50", 3).input_statistics()
        assert mean == pytest.approx((0.485, 0.456, 0.406))
        assert std == pytest.approx((0.229, 0.224, 0.225))
        grey, _ = BackboneFactory("resnet50", 1).input_statistics()
        assert grey == pytest.approx((sum(mean) / 3,))

    def test_unknown_name_suggests(self):
        with pytest.raises(
            UsageError, match=r"Unknown backbone 'resnet_50'.*Did you mean 'resnet5"
        ):
            BackboneFactory("resnet_50", 3)
        with pytest.raises(UsageError, match="Did you mean 'resnet32_cifar'"):
            BackboneFactory("resnet32_cifr", 3)


class TestSplit:
    @pytest.mark.parametrize("name", ["resnet8_cifar", "resnet18"])
    def test_composes_to_the_same_output_and_shares_weights(self, name):
        backbone = BackboneFactory(name, 3)().eval()
        trunk, block, pool = backbone.split_last_block()
        with torch.no_grad():
            torch.testing.assert_close(pool(block(trunk(pictures()))), backbone(pictures()))
        whole = {id(p) for p in backbone.parameters()}
        parts = [id(p) for part in (trunk, block, pool) for p in part.parameters()]
        assert set(parts) == whole
        assert len(parts) == len(whole)
        assert len(list(block.parameters())) > 0

    def test_only_resnets(self):
        with pytest.raises(UsageError, match="no last residual block"):
            BackboneFactory("convnext_atto", 3)().split_last_block()


class TestWeightFiles:
    @pytest.fixture(scope="class")
    @classmethod
    def net(cls):
        torch.manual_seed(1)
        return BackboneFactory("resnet8_cifar", 3)().net

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_round_trip(self, net, suffix, tmp_path):
        """With a classifier in the file, as published ones have it."""
        state = {**net.state_dict(), "fc.weight": torch.rand(10, 64), "fc.bias": torch.rand(10)}
        file = tmp_path / f"weights{suffix}"
        save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
        factory = BackboneFactory("resnet8_cifar", 3, str(file))
        first, second = factory(), factory()
        assert first.net is not second.net
        for backbone in (first, second):
            assert state_digest(backbone.net.state_dict()) == state_digest(net.state_dict())
        assert factory.weights_digest == state_digest(net.state_dict())

    @pytest.mark.parametrize("key", ["state_dict", "model"])
    def test_wrapped_and_prefixed_by_data_parallel(self, net, key, tmp_path):
        state = {f"module.{name}": value for name, value in net.state_dict().items()}
        torch.save({key: state, "epoch": 3}, tmp_path / "weights.pth")
        factory = BackboneFactory("resnet8_cifar", 3, str(tmp_path / "weights.pth"))
        assert factory.weights_digest == state_digest(net.state_dict())

    def test_another_architecture_is_refused_with_names(self, net, tmp_path):
        file = tmp_path / "weights.pt"
        state = net.state_dict()
        state["surplus"] = torch.zeros(3)
        state["conv1.weight"] = state["conv1.weight"][:, :1]
        del state["bn1.bias"]
        torch.save(state, file)
        with pytest.raises(UsageError) as caught:
            BackboneFactory("resnet8_cifar", 3, str(file))
        for words in (str(file), "1 tensors missing ['bn1.bias']", "1 unknown ['surplus']",
                      "1 of another shape ['conv1.weight']"):  # fmt: skip
            assert words in str(caught.value)

    def test_features_called_head_are_kept(self, tmp_path):
        """ConvNeXt's last normalisation is `head.norm`, its classifier `head.fc`."""
        whole = timm.create_model("convnext_atto", num_classes=7).state_dict()
        whole["head.norm.weight"] += 1
        torch.save(whole, tmp_path / "weights.pt")
        net = BackboneFactory("convnext_atto", 3, str(tmp_path / "weights.pt"))().net
        assert torch.equal(net.state_dict()["head.norm.weight"], whole["head.norm.weight"])

    @pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(3)])
    def test_no_state_dict(self, content, tmp_path):
        torch.save(content, tmp_path / "weights.pt")
        with pytest.raises(UsageError, match="not of tensors by name"):
            read_state(tmp_path / "weights.pt")

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_garbage(self, suffix, tmp_path):
        (tmp_path / f"weights{suffix}").write_bytes(b"no weights at all")
        with pytest.raises(UsageError, match="cannot be read as a state dict"):
            read_state(tmp_path / f"weights{suffix}")

    def test_missing_file(self):
        with pytest.raises(DataMissingError, match=r"no file nowhere\.pt"):
            BackboneFactory("resnet8_cifar", 3, "nowhere.pt")

    def test_initial_weights_of_a_run(self, net, tmp_path):
        file = tmp_path / "weights.pt"
        torch.save(BackboneFactory("resnet8_cifar", 1)().net.state_dict(), file)
        request = tiny_request("ce", {"weights": str(file)})
        cell = prepare(resolve(request), results=tmp_path, data_root=None)
        method = build_method(cell, make_fabric(cell.config))
        digest = state_digest(torch.load(file, weights_only=True))
        assert state_digest(method.backbone.net.state_dict()) == digest
        assert cell.key_parts["weights_digest"] == digest


# By the names of the hub client's errors: out of reach, and slow to answer.
ConnectError, ReadTimeout = (type(n, (Exception,), {}) for n in ("ConnectError", "ReadTimeout"))


class TestPretrained:
    TAG = "resnet18.tv_in1k"

    @pytest.fixture(autouse=True)
    def empty_cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    @pytest.fixture
    def fetched(self, monkeypatch):
        """What timm was asked to fetch; it makes random weights instead."""
        asked, original = [], timm.create_model

        def create(name, pretrained=False, **settings):
            asked.append(name) if pretrained else None
            return original(name, **settings)

        monkeypatch.setattr(timm, "create_model", create)
        return asked

    def test_without_a_network_it_says_so_at_once(self, monkeypatch):
        def no_name(*_, **__):
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", no_name)
        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it tries again"))
        with pytest.raises(DataMissingError) as caught:
            BackboneFactory("resnet18", 3, self.TAG)
        assert caught.value.exit_code == 3
        for words in (self.TAG, "Name or service not known", "--weights FILE", "--weights none"):
            assert words in str(caught.value)

    def test_out_of_reach_timm_is_not_asked(self, fetched, monkeypatch):
        def unreachable(url, **_):
            assert "timm/resnet18.tv_in1k" in url
            raise ConnectError("refused")

        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
        with pytest.raises(DataMissingError, match="refused"):
            BackboneFactory("resnet18", 3, self.TAG)
        assert fetched == []

    @pytest.mark.parametrize("error", [ReadTimeout("slow"), ValueError("not found there")])
    def test_a_slow_or_odd_answer_leaves_it_to_timm(self, error, fetched, monkeypatch):
        def answer(url, **_):
            raise error

        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)
        factory = BackboneFactory("resnet18", 3, self.TAG)
        assert fetched == [self.TAG]
        assert factory.weights_digest == state_digest(factory().net.state_dict())

    def test_what_is_in_the_cache_needs_no_question(self, fetched, monkeypatch):
        monkeypatch.setattr(
            huggingface_hub, "try_to_load_from_cache", lambda repository, file: f"/cache/{file}"
        )
        monkeypatch.setattr(
            huggingface_hub, "get_hf_file_metadata", lambda *_, **__: pytest.fail("asked")
        )
        BackboneFactory("resnet18", 3, self.TAG)
        assert fetched == [self.TAG]

    @pytest.mark.parametrize(("tag", "message"), [
        ("resnet18.tv_in1", "Unknown weights 'resnet18.tv_in1'. Did you mean 'resnet18.tv_in1k'"),
        ("resnet18", "Unknown weights 'resnet18'"),
        ("resnet50.tv_in1k", "does not belong to backbone 'resnet18'"),
    ])  # fmt: skip
    def test_tags_that_do_not_fit(self, tag, message, fetched):
        with pytest.raises(UsageError, match=message):
            BackboneFactory("resnet18", 3, tag)
        assert fetched == []

    def test_small_nets_have_none(self):
        with pytest.raises(UsageError, match="does not belong to backbone 'resnet8_cifar'"):
            BackboneFactory("resnet8_cifar", 3, self.TAG)


class TestFormats:
    def test_channels_last(self, tmp_path, monkeypatch):
        """Pictures and weights have it in training, and it resumes to the same bits."""
        seen, original = [], models.Backbone.forward

        def look(self, images):
            weight = self.net.layer2[0].conv1.weight
            shapes = [x.is_contiguous(memory_format=torch.channels_last) for x in (images, weight)]
            seen.append((shapes, weight.is_contiguous()))
            return original(self, images)

        monkeypatch.setattr(models.Backbone, "forward", look)
        settings = {"channels_last": True, "epochs": 2}
        whole = tiny_run("ce", tmp_path / "whole", settings)
        assert set(map(str, seen)) == {"([True, True], False)"}
        broken = interrupted_run("ce", tmp_path / "broken", [2, 3], settings)
        assert broken.record["digest"] == whole.record["digest"]
        plain = tiny_run("ce", tmp_path / "plain", {"epochs": 2})
        losses = [run.folder.epochs()[0]["train"]["loss"] for run in (whole, plain)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)

    @pytest.mark.parametrize("wanted", [False, True])
    def test_compile_is_wired(self, wanted, tmp_path, monkeypatch):
        compiled = []
        monkeypatch.setattr(nn.Module, "compile", lambda self, *_, **__: compiled.append(self))
        request = tiny_request("ce", {"compile": wanted})
        cell = prepare(resolve(request), results=tmp_path, data_root=None)
        method = build_method(cell, make_fabric(cell.config))
        assert [module is method.backbone for module in compiled] == [True] * wanted

    @pytest.mark.slow
    def test_compiled_is_close_to_plain(self, tmp_path):
        losses = []
        for wanted in (False, True):
            outcome = tiny_run("ce", tmp_path, {"compile": wanted, "epochs": 2})
            losses.append(outcome.folder.epochs()[0]["train"]["loss"])
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
