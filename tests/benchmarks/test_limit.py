"""The floor model against the arithmetic done by hand for ImageNet-1K."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import limit as model
from ddfast.bench import ceilings as measuring

# Zen 4 at 3.65 GHz
ZEN4 = measuring.Ceilings(116.2e9, 233.8e9, 20e9, 7.0e-9, 1.5e-9, 37e-6, 1e-3)


def seconds(result: model.Limit) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in result.stages}


def test_rtx_4090_beside_16_cores() -> None:
    result = model.limit(model.Workload(), ZEN4, cores=16, gpu=model.GPUS["rtx4090"])
    stages = seconds(result)
    assert stages["read"] == pytest.approx(9.4, abs=0.05)
    assert stages["decode"] == pytest.approx(19.5, abs=0.1)
    assert stages["crop"] == pytest.approx(3.5, abs=0.05)
    assert stages["score"] == pytest.approx(33.0, abs=0.1)
    assert stages["link"] == pytest.approx(1.3, abs=0.05)
    assert result.binding == "gpu"
    assert result.x_of_limit(420) == pytest.approx(12.7, abs=0.1)
    published = model.limit(model.Workload(), ZEN4, cores=16, gpu=model.GPUS["rtx4090"], use_published_rate=True)
    assert seconds(published)["score"] == pytest.approx(57.8, abs=0.1)


def test_h200_is_bound_by_the_cores() -> None:
    skipped = model.Workload(active_share=model.RESNET18_SKIP)
    result = model.limit(skipped, ZEN4, cores=16, gpu=model.GPUS["h200"])
    assert result.binding == "cores"
    assert result.seconds == pytest.approx(19.5 + 3.5 + 0.6, abs=0.2)
    assert seconds(result)["score"] == pytest.approx(4.1, abs=0.05)
    with pytest.raises(ValueError, match="no forward rate of H200"):
        model.limit(skipped, ZEN4, cores=16, gpu=model.GPUS["h200"], use_published_rate=True)


def test_two_cores_alone() -> None:
    one = model.Workload(images=1, classes=0)
    fp32 = seconds(model.limit(one, ZEN4, cores=2))["score"]
    assert fp32 == pytest.approx(78.1e-3, rel=1e-3)
    skipped = replace(one, active_share=model.RESNET18_SKIP)
    assert seconds(model.limit(skipped, ZEN4, cores=2, precision="bf16"))["score"] == pytest.approx(29.1e-3, rel=3e-3)
    whole = model.limit(skipped, ZEN4, cores=2)
    assert 1 / whole.seconds == pytest.approx(16.9, abs=0.1)


def test_resources_add_up_and_the_busiest_binds() -> None:
    result = model.limit(model.Workload(), ZEN4, cores=16, gpu=model.GPUS["h200"], disk=0.1e9)
    assert result.binding == "disk"
    assert result.by_resource()["cores"] == pytest.approx(
        sum(seconds(result)[name] for name in ("decode", "crop", "save"))
    )
    assert "bound by disk" in model.table("slow disk", result)


def test_prediction_from_measured_rates() -> None:
    rates = {"decode": 1.04e-3, "crop": 0.2e-3}
    result = model.predict(model.Workload(), rates, cores=16, gpu=model.GPUS["rtx4090"], forward_rate=25_949)
    assert seconds(result)["decode"] == pytest.approx(19.5)
    assert result.binding == "gpu"
    assert result.seconds == pytest.approx(57.8, abs=0.1)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="cores: got 0"):
        model.limit(model.Workload(), ZEN4, cores=0)
    with pytest.raises(ValueError, match="precision: got 'int8'"):
        model.limit(model.Workload(), ZEN4, cores=1, precision="int8")


def test_command_prints_assumptions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(model, "measure", lambda folder: ZEN4)
    model.main(["--images", "600", "--cores", "2", "--measured", "60"])
    text = capsys.readouterr().out
    for part in ("7.00 ns/byte", "vendor specification", "x of the limit", "bound by", "assumed: 600 images"):
        assert part in text
