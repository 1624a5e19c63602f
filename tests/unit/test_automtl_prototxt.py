"""Backbones from prototxt: what is read, and what is refused with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.search import automtl
from training.search.automtl.prototxt import PrototxtError, parse_prototxt

NETWORK = """
name: "small"   # a comment
input: "blob1"
input_dim: 1  input_dim: 3  input_dim: 20  input_dim: 20
layer {
  name: "conv1" type: "Convolution" bottom: "data" top: "c1"
  convolution_param { num_output: 8 bias_term: false pad: 1 kernel_size: 3 stride: 2 }
}
layer { name: "bn1" type: "BatchNorm" bottom: "c1" top: "c1" batch_norm_param { eps: 1e-03 } }
layer { name: "scale1" type: "Scale" bottom: "c1" top: "c1" scale_param { bias_term: true } }
layer { name: "relu1" type: "ReLU" bottom: "c1" top: "r1" }
layer {
  name: "dw" type: "DepthwiseConvolution" bottom: "r1" top: "d1"
  convolution_param { num_output: 8 pad: 1 kernel_size: 3 }
}
layer { name: "sum" type: "Eltwise" bottom: "d1" bottom: "r1" top: "s1" eltwise_param { operation: SUM } }
layer {
  name: "pool" type: "Pooling" bottom: "s1" top: "p1"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 round_mode: CEIL }
}
layer { name: "interp" type: "Interp" bottom: "p1" top: "i1" interp_param { zoom_factor: 2 } }
layer { name: "cat" type: "Concat" bottom: "i1" bottom: "s1" top: "out" concat_param { axis: 1 } }
"""


def written(folder: Path, text: str = NETWORK) -> Path:
    path = folder / "net.prototxt"
    path.write_text(text, encoding="utf-8")
    return path


def test_network_is_read_and_compiles(tmp_path: Path) -> None:
    backbone = automtl.read_prototxt(written(tmp_path)).eval()
    image = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    output = backbone(image)
    assert output.shape == (2, 16, 10, 10)
    assert backbone.bn1.eps == 1e-3
    assert backbone.dw.groups == 8
    assert sum(p.numel() for p in backbone.parameters()) == 3 * 8 * 9 + 16 + 8 * 9 + 8
    supermodel = automtl.compile(backbone, ("depth", "edges"))
    assert supermodel.operators == ("conv1", "dw")
    assert torch.equal(supermodel(image, policy=supermodel.all_shared())["edges"], output)


def test_input_layer_and_several_outputs(tmp_path: Path) -> None:
    text = """
    layer { name: "data" type: "Input" top: "data" input_param { shape: { dim: 1 dim: 3 dim: 8 dim: 8 } } }
    layer { name: "a" type: "Convolution" bottom: "data" top: "a"
            convolution_param { num_output: 4 kernel_h: 1 kernel_w: 3 pad_w: 1 } }
    layer { name: "fc" type: "InnerProduct" bottom: "a" top: "fc" inner_product_param { num_output: 5 } }
    layer { name: "act" type: "PReLU" bottom: "a" top: "act" }
    """
    outputs = automtl.read_prototxt(written(tmp_path, text))(torch.zeros(2, 3, 8, 8))
    assert [tuple(output.shape) for output in outputs] == [(2, 5), (2, 4, 8, 8)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('type: "Eltwise"', 'type: "Eltwize"', r"net.prototxt:16: layer 'sum' .* did you mean 'Eltwise'"),
        ('bottom: "d1" bottom', 'bottom: "d2" bottom', r":16: layer 'sum' reads 'd2'.* did you mean 'd1'"),
        ("operation: SUM }", "operation: MEAN }", r":16: layer 'sum'.*MEAN"),
        ("zoom_factor: 2 } }", "zoom_factor: 2 }", r"'}' is missing at the end"),
        ("kernel_size: 3 stride: 2 }", "kernel_size: ? }", r":7: unexpected character '\?'"),
        ('bottom: "c1" top: "c1" scale', 'bottom: "data" top: "c1" scale', r"reads 'data'"),
        ("pad: 1 kernel_size: 3 stride: 2", "kernel_size: 99", r":5: layer 'conv1'"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in NETWORK
    with pytest.raises(PrototxtError, match=message):
        automtl.read_prototxt(written(tmp_path, NETWORK.replace(old, new)))


def test_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(PrototxtError, match="cannot be read"):
        automtl.read_prototxt(tmp_path / "nothing.prototxt")


def test_scale_alone_is_refused(tmp_path: Path) -> None:
    text = NETWORK.replace('name: "bn1" type: "BatchNorm"', 'name: "bn1" type: "ReLU"')
    with pytest.raises(PrototxtError, match="does not follow a BatchNorm"):
        automtl.read_prototxt(written(tmp_path, text))


def test_values_become_pythons() -> None:
    message = parse_prototxt('a: 1 a: -2.5e1 b: "x y" c: true d: WORD e: [1, 2] f < g: 3 >', "text")
    assert message.scalars("a") == [1, -25.0]
    assert message.scalars("b") + message.scalars("c") + message.scalars("d") == ["x y", True, "WORD"]
    assert message.scalars("e") == [1, 2]
    assert message.message("f").scalars("g") == [3]
