"""Networks trained in other labs, as small modules that read their published weight files.

Keras files are read as plain HDF5 arrays, torch files as the raw arrays in their zip, so that
nothing in a file is ever executed; Keras is not needed.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tism.model import BothStrandsConv, SoftmaxPool
from tism.study.data.download import fetch
from tism.study.scores import weights_sha256

KERAS_EPSILON = 1e-3  # of batch normalisation; torch's default is 1e-5
_KERAS_NORM = [("weight", "gamma"), ("bias", "beta")]  # names in torch and in Keras
_KERAS_NORM += [("running_mean", "moving_mean"), ("running_var", "moving_variance")]
GELU_MINIMUM = -0.169971  # the lowest value of GELU, at -0.7518
# Unstimulated (U) and stimulated (S) cell states, in the byte order that the publisher sorts by.
CALDERON_TASKS = (
    "Bulk_B-S", "Bulk_B-U", "CD8pos_T-S", "CD8pos_T-U",
    "Central_memory_CD8pos_T-S", "Central_memory_CD8pos_T-U",
    "Effector_CD4pos_T-S", "Effector_CD4pos_T-U",
    "Effector_memory_CD8pos_T-S", "Effector_memory_CD8pos_T-U",
    "Follicular_T_Helper-S", "Follicular_T_Helper-U", "Gamma_delta_T-S", "Gamma_delta_T-U",
    "Immature_NK-U", "Mature_NK-S", "Mature_NK-U", "Mem_B-S", "Mem_B-U", "Memory_NK-U",
    "Memory_Teffs-S", "Memory_Teffs-U", "Memory_Tregs-S", "Memory_Tregs-U",
    "Monocytes-S", "Monocytes-U", "Myeloid_DCs-U", "Naive_B-S", "Naive_B-U",
    "Naive_CD8_T-S", "Naive_CD8_T-U", "Naive_Teffs-S", "Naive_Teffs-U",
    "Naive_Tregs-S", "Naive_Tregs-U", "Plasmablasts-U", "Regulatory_T-S", "Regulatory_T-U",
    "Th17_precursors-S", "Th17_precursors-U", "Th1_precursors-S", "Th1_precursors-U",
    "Th2_precursors-S", "Th2_precursors-U", "pDCs-U",
)  # fmt: skip
DEEPSTARR_TASKS = ("developmental", "housekeeping")
MPRA_DRAGONN_TASKS = tuple(
    f"{cell} {promoter} {what}"
    for cell in ("K562", "HepG2")
    for promoter in ("minP", "SV40P")
    for what in ("replicate 1", "replicate 2", "average")
)


class WeightFileError(ValueError):
    """A file of weights that lacks an array, or holds one of another shape."""


@dataclass(frozen=True)
class ExternalModel:
    """A published network, ready to be scored.

    model : maps (n, 4, length) to (n, len(tasks)), in evaluation mode
    length : bases of the input
    tasks : names of the outputs, in order
    """

    name: str
    model: nn.Module
    length: int
    tasks: tuple[str, ...]

    @property
    def checksum(self) -> str:
        """sha256 of what decides the predictions: layers, weights, length and names of tasks."""
        described = [self.length, self.tasks, _described_layers(self.model)]
        return weights_sha256(self.model, prefix=json.dumps(described))

    def task_numbers(self, names: str) -> list[int]:
        """Numbers of the tasks in a text: "all", a name, or several separated by ";"."""
        wanted = self.tasks if names == "all" else names.split(";")
        unknown = [name for name in wanted if name not in self.tasks]
        if unknown:
            raise ValueError(
                f"{self.name} has no task {', '.join(unknown)}; it has {', '.join(self.tasks)}"
            )
        return [self.tasks.index(name) for name in wanted]


def _described_layers(model: nn.Module) -> list[Any]:
    """Each layer's name, class and settings, such as a padding, which the weights do not show."""
    return [
        (name, type(layer).__qualname__, {k: repr(v) for k, v in _settings(layer)})
        for name, layer in model.named_modules()
    ]


def _settings(layer: nn.Module) -> list[tuple[str, Any]]:
    plain = str | int | float | tuple | list | None
    shown = sorted(vars(layer).items())
    return [(k, v) for k, v in shown if k[0] != "_" and k != "training" and isinstance(v, plain)]


class CalderonCNN(nn.Module):
    """401 bp to 45 human immune cell states: 256 kernels on both strands, GELU, 6 pooled windows.

    Ten unknown bases stand on either side of the sequence; in training it was shifted into them.
    The published code pads the 421 activations to 486 with their minimum over the batch, which with
    256 kernels is the lowest value of GELU. Here it is that constant, so that a prediction does not
    depend on its batch.

    padding : the constant

    Source: github.com/mostafavilabuw/Calderon2019ATACmodel, on data of Calderon et al. 2019, Nat
    Genet 51:1494; the network's code is github.com/LXsasse/DRG.
    """

    def __init__(self, padding: float = GELU_MINIMUM) -> None:
        super().__init__()
        self.shift = nn.ConstantPad1d(10, 0.0)
        self.conv = BothStrandsConv(256, 15)
        self.activation = nn.GELU()
        self.fill = nn.ConstantPad1d((33, 32), padding)
        self.pool = SoftmaxPool(81)
        self.head = nn.Linear(256 * 6, len(CALDERON_TASKS))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, 401) to (n, 45), mean log2(count + 2) after quantile normalisation."""
        x = self.activation(self.conv(self.shift(x)))
        return self.head(self.pool(self.fill(x)).flatten(1))


def deepstarr() -> nn.Sequential:
    """249 bp to developmental and housekeeping enhancer activity (log2) in fly S2 cells.

    Source: de Almeida et al. 2022, Nat Genet 54:613. Untrained weights.
    """
    layers: list[nn.Module] = []
    channels = 4
    for width, kernel in ((256, 7), (60, 3), (60, 5), (120, 3)):
        layers += [nn.Conv1d(channels, width, kernel, padding="same")]
        layers += [nn.BatchNorm1d(width, eps=KERAS_EPSILON), nn.ReLU(), nn.MaxPool1d(2)]
        channels = width
    layers.append(nn.Flatten())
    features = channels * (249 // 2**4)
    for _ in range(2):
        norm = nn.BatchNorm1d(256, eps=KERAS_EPSILON)
        layers += [nn.Linear(features, 256), norm, nn.ReLU(), nn.Dropout(0.4)]
        features = 256
    return nn.Sequential(*layers, nn.Linear(features, len(DEEPSTARR_TASKS)))


def mpra_dragonn() -> nn.Sequential:
    """145 bp to 12 measurements of Sharpr-MPRA in K562 and HepG2 (log2, standardised).

    Source: the ConvModel of Movva et al. 2019, PLoS ONE 14:e0218073. Untrained weights.
    """
    layers: list[nn.Module] = []
    channels, length = 4, 145
    for _ in range(3):
        norm = nn.BatchNorm1d(120, eps=KERAS_EPSILON)
        layers += [nn.Conv1d(channels, 120, 5), nn.ReLU(), norm, nn.Dropout(0.1)]
        channels, length = 120, length - 4
    head = nn.Linear(channels * length, len(MPRA_DRAGONN_TASKS))
    return nn.Sequential(*layers, nn.Flatten(), head)


def read_keras_layers(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """Arrays of a Keras 2 weight file by layer and name, such as ["dense_1"]["kernel"].

    Raises WeightFileError if the file is not HDF5, ImportError without h5py.
    """
    try:
        import h5py
    except ImportError:
        raise ImportError("Keras weights need h5py: pip install 'tism[data]'") from None
    layers: dict[str, dict[str, Tensor]] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            layer, array = name.split("/")[0], name.split("/")[-1].split(":")[0]
            layers.setdefault(layer, {})[array] = torch.from_numpy(item[()])

    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)
    except OSError as error:
        raise WeightFileError(f"{path} is no HDF5 file: {error}") from error
    return layers


def load_keras(model: nn.Sequential, path: str | Path, names: list[list[str]]) -> None:
    """Fill a chain of layers from a Keras weight file.

    names : for each layer of `model` with weights, in order, its names in the file; several where
        the outputs of several Keras layers are joined

    Keras keeps a convolution as (kernel, in, out) and a dense layer as (in, out), and flattens
    (length, channels), position by position: the first dense layer after a flattening gets its
    inputs in torch's order, channel by channel.

    Raises WeightFileError naming the file, the layer and what differs.
    """
    layers, names_left = read_keras_layers(path), iter(names)
    channels, flattened, state = 0, False, {}
    for position, module in enumerate(model):
        flattened = flattened or isinstance(module, nn.Flatten)
        if not isinstance(module, nn.Conv1d | nn.Linear | nn.BatchNorm1d):
            continue
        arrays = _joined(layers, next(names_left), path)
        if isinstance(module, nn.Linear):
            kernel = arrays["kernel"].unflatten(0, (-1, channels if flattened else 1))
            kernel = kernel.permute(2, 1, 0).flatten(1)  # from (length, channels, out)
            arrays, flattened = {"weight": kernel, "bias": arrays["bias"]}, False
        elif isinstance(module, nn.Conv1d):
            channels = module.out_channels
            arrays = {"weight": arrays["kernel"].permute(2, 1, 0), "bias": arrays["bias"]}
        else:
            arrays = {ours: arrays[theirs] for ours, theirs in _KERAS_NORM}
        state |= {f"{position}.{name}": array for name, array in arrays.items()}
    _load(model, state, path)


def _joined(layers: dict, names: list[str], path: str | Path) -> dict[str, Tensor]:
    """Arrays of one Keras layer, or of several side by side."""
    missing = [name for name in names if name not in layers]
    if missing:
        problem = f"no weights of layer {', '.join(missing)}; it has {', '.join(layers)}"
        raise WeightFileError(f"{path} has {problem}")
    parts = [layers[name] for name in names]
    return {key: torch.cat([part[key] for part in parts], dim=-1) for key in parts[0]}


def read_torch_arrays(path: str | Path, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The float32 arrays of a torch weight file (zip), in the order in which they were saved.

    shapes : of each array in the file, whose size must fit

    The arrays lie in the zip as raw bytes; the pickle beside them, which names them, is not read.
    Raises WeightFileError if the file holds other arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if re.search(r"/data/\d+$", n)]
            names.sort(key=lambda name: int(name.rsplit("/", 1)[1]))
            arrays = [archive.read(name) for name in names]
    except (OSError, zipfile.BadZipFile) as error:
        raise WeightFileError(f"{path} is no torch weight file: {error}") from error
    sizes = [4 * math.prod(shape) for shape in shapes]
    got = [len(array) for array in arrays]
    if got != sizes:
        raise WeightFileError(f"{path} must hold arrays of {sizes} bytes, got {got}")
    tensors = [torch.frombuffer(bytearray(array), dtype=torch.float32) for array in arrays]
    return [tensor.view(shape) for tensor, shape in zip(tensors, shapes, strict=True)]


def load_calderon(model: CalderonCNN, path: str | Path) -> None:
    """Fill the network from its published state dict; the identity matrix in it is not used.

    Raises WeightFileError if the file holds other arrays.
    """
    pool, head = model.pool.size, model.head.weight.shape
    shapes = [model.conv.conv.weight.shape, (pool, 1, 1, pool), head, head[:1]]
    kernels, _, weight, bias = read_torch_arrays(path, shapes)
    _load(model, {"conv.conv.weight": kernels, "head.weight": weight, "head.bias": bias}, path)


def _load(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Copy tensors into a model, each of the shape that is expected."""
    for name, expected in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in state or state[name].shape != expected.shape:
            got = tuple(state[name].shape) if name in state else "nothing"
            raise WeightFileError(f"{path}: {name} must be {tuple(expected.shape)}, got {got}")
    model.load_state_dict(state, strict=False)
    model.eval()


_DEEPSTARR = [
    ["Conv1D_1st"], ["batch_normalization_60"], ["Conv1D_2"], ["batch_normalization_61"],
    ["Conv1D_3"], ["batch_normalization_62"], ["Conv1D_4"], ["batch_normalization_63"],
    ["Dense_1"], ["batch_normalization_64"], ["Dense_2"], ["batch_normalization_65"],
    ["Dense_Dev", "Dense_Hk"],
]  # fmt: skip
_DRAGONN = [
    ["conv1d_1"], ["batch_normalization_1"], ["conv1d_2"], ["batch_normalization_2"],
    ["conv1d_3"], ["batch_normalization_3"], ["dense_1"],
]  # fmt: skip


# Name to untrained network, its layers in a Keras file, the file, bases of the input, tasks.
EXTERNAL = {
    "calderon": (CalderonCNN, None, "calderon/weights.pth", 401, CALDERON_TASKS),
    "deepstarr": (deepstarr, _DEEPSTARR, "deepstarr/deepstarr.model.h5", 249, DEEPSTARR_TASKS),
    "mpra_dragonn": (
        mpra_dragonn, _DRAGONN, "mpra_dragonn/pretrained.hdf5", 145, MPRA_DRAGONN_TASKS,
    ),
}  # fmt: skip


def load_external(name: str) -> ExternalModel:
    """A published network by its name in `EXTERNAL`; its weights are downloaded if need be.

    Raises ValueError for another name, DownloadError if the file cannot be had, WeightFileError if
    it is not what it should be.
    """
    if name not in EXTERNAL:
        raise ValueError(f"name must be one of {', '.join(EXTERNAL)}; got {name!r}")
    build, layers, file, length, tasks = EXTERNAL[name]
    model, path = build(), fetch(f"models/{file}")
    if layers:
        load_keras(model, path, layers)
    else:
        load_calderon(model, path)
    return ExternalModel(name, model, length, tasks)
