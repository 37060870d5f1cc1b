"""Networks trained in other labs, as small modules that read their published weight files.

Keras files are read as plain HDF5 arrays, torch files as the raw arrays in their zip, so that
nothing in a file is ever executed; Keras is not needed.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
APARENT2_DILATION = 1, 2, 4, 8, 4, 2, 1  # of the seven groups of four residual blocks
_LIBRARY = 11  # of APARENT2, that its authors choose for genomic sequences
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
    args : what else the network's forward takes, one row for all sequences
    """

    name: str
    model: nn.Module
    length: int
    tasks: tuple[str, ...]
    args: tuple[Tensor, ...] = ()

    @property
    def checksum(self) -> str:
        """sha256 of what decides the predictions: layers, weights, length and names of tasks."""
        described = [self.length, self.tasks, _described_layers(self.model)]
        described += [value.tolist() for value in self.args]
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


class Xpresso(nn.Module):
    """10,500 bp around a transcription start and six features of the mRNA to its level.

    The sequence begins 7,000 bp before the start. The features say how long the mRNA lives; they
    and the output, the logarithm of the expression, are z scores over all genes, so that zeros are
    those of an average mRNA.

    Source: Agarwal and Shendure 2020, Cell Rep 31:107663. Untrained weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.conv1 = nn.ConstantPad1d((2, 3), 0.0), nn.Conv1d(4, 128, 6)
        self.conv2 = nn.Conv1d(128, 32, 9, padding="same")
        self.pool1, self.pool2 = nn.MaxPool1d(30), nn.MaxPool1d(10)
        self.dense1, self.dense2 = nn.Linear(35 * 32 + 6, 64), nn.Linear(64, 2)
        self.dense3 = nn.Linear(2, 1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """(n, 4, 10500) and (n, 6) to (n, 1)."""
        x = self.pool1(self.conv1(self.pad(x)).relu())
        x = self.pool2(self.conv2(x).relu())  # (n, 32, 35)
        x = torch.cat([x.transpose(1, 2).flatten(1), features], 1)
        return self.dense3(self.dense2(self.dense1(x).relu()).relu())


class _Residual(nn.Module):
    def __init__(self, dilation: int) -> None:
        super().__init__()
        for i in range(2):
            conv = nn.Conv1d(32, 32, 3, padding="same", dilation=dilation)
            setattr(self, f"conv_{i}", conv)
            setattr(self, f"batch_norm_{i}", nn.BatchNorm1d(32, eps=KERAS_EPSILON))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 32, length) to the same."""
        y = self.conv_0(self.batch_norm_0(x).relu())
        return x + self.conv_1(self.batch_norm_1(y).relu())


class Aparent2(nn.Module):
    """205 bp of a polyadenylation signal, whose hexamer starts at 70, to the use of the signal.

    The network predicts a distribution of cleavage over the 205 positions and, beyond them, none.
    Its authors take the part that lies from 7 to 57 bp behind the start of the hexamer as the
    proportion of the isoform, and compare variants by its log odds. Of 13 libraries whose levels
    the network learnt they use the twelfth for genomic sequences; so do we.

    log_odds : return the log odds instead of the proportion

    Source: Linder et al. 2022, Genome Biol 23:232. Untrained weights.
    """

    def __init__(self, log_odds: bool = False) -> None:
        super().__init__()
        self.log_odds = log_odds
        self.conv_0, self.final_conv = nn.Conv1d(4, 32, 1), nn.Conv1d(32, 1, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(_Residual(dilation) for _ in range(4)))
            for dilation in APARENT2_DILATION
        )
        self.skips = nn.ModuleList(nn.Conv1d(32, 32, 1) for _ in range(8))
        self.library = nn.Parameter(torch.zeros(206))

    def cleavage(self, x: Tensor) -> Tensor:
        """(n, 4, 205) to (n, 206), logits of the distribution; the last is no cleavage."""
        x = self.conv_0(x)
        total = self.skips[0](x)
        for block, skip in zip(self.blocks, self.skips[1:], strict=True):
            x = block(x)
            total = total + skip(x)
        return F.pad(self.final_conv(total)[:, 0], (0, 1)) + self.library

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, 205) to (n, 1)."""
        odds = isoform_log_odds(self.cleavage(x))[:, None]
        return odds if self.log_odds else odds.sigmoid()


def isoform_log_odds(cleavage: Tensor) -> Tensor:
    """(n,) log odds of cleavage from 7 to 57 bp behind the start of the hexamer, from (n, 206)."""
    rest = torch.cat([cleavage[:, :77], cleavage[:, 127:]], 1)
    return cleavage[:, 77:127].logsumexp(1) - rest.logsumexp(1)


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
            layer, *_, array = name.removeprefix("model_weights/").split("/")
            layers.setdefault(layer, {})[array.split(":")[0]] = torch.as_tensor(item[()])

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
        if isinstance(module, nn.Linear) and flattened:
            kernel = arrays["kernel"].unflatten(0, (-1, channels))  # (length, channels, out)
            arrays["kernel"], flattened = kernel.transpose(0, 1).flatten(0, 1), False
        elif isinstance(module, nn.Conv1d):
            channels = module.out_channels
        state |= _in_torch(str(position), arrays)
    _load(model, state, path)


def _in_torch(name: str, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Arrays of a Keras layer as they are kept in torch, by their names in a layer `name`."""
    if "gamma" in arrays:
        return {f"{name}.{ours}": arrays[theirs] for ours, theirs in _KERAS_NORM}
    kernel = arrays["kernel"]
    kernel = kernel[0] if kernel.ndim == 4 else kernel  # a row of an image of one row
    weight = kernel.permute(*reversed(range(kernel.ndim)))
    return {f"{name}.weight": weight, f"{name}.bias": arrays["bias"]}


def load_named(
    model: nn.Module,
    path: str | Path,
    names: Mapping[str, str],
    others: Mapping[str, Tensor] | None = None,
) -> None:
    """Fill a network from a Keras weight file, by the name in it of each layer with weights.

    others : parameters that no layer of the file holds as they are

    Raises WeightFileError as `load_keras`.
    """
    layers, state = read_keras_layers(path), dict(others or {})
    for ours, theirs in names.items():
        state |= _in_torch(ours, _joined(layers, [theirs], path))
    _load(model, state, path)


def load_aparent2(model: Aparent2, path: str | Path) -> None:
    """Fill the network from its published Keras file.

    Raises WeightFileError as `load_keras`.
    """
    names = {name: f"aparent_{name}" for name in ("conv_0", "final_conv")}
    names |= {f"skips.{i}": f"aparent_skip_conv_{i}" for i in range(7)}
    names["skips.7"] = "aparent_last_block_conv"
    for i, k, part, n in product(range(7), range(4), ("conv", "batch_norm"), range(2)):
        names[f"blocks.{i}.{k}.{part}_{n}"] = f"aparent_resblock_{i}_{k}_{part}_{n}"
    library = _joined(read_keras_layers(path), ["aparent_lib_conv"], path)
    level = library["kernel"][:, _LIBRARY, 0] + library["bias"][0, :, 0]
    load_named(model, path, names, {"library": level})


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


_XPRESSO = {
    "conv1": "conv1d_1", "conv2": "conv1d_2",
    "dense1": "dense_1", "dense2": "dense_2", "dense3": "dense_3",
}  # fmt: skip


class Published(NamedTuple):
    """A network that can be rebuilt: untrained, filled by load(model, path) from `file`.

    title : the name that readers see; the others as in `ExternalModel`
    """

    title: str
    build: Callable[[], nn.Module]
    load: Callable[[Any, Path], None]
    file: str
    length: int
    tasks: tuple[str, ...]
    args: tuple[Tensor, ...] = ()


EXTERNAL = {
    "calderon": Published(
        "Calderon CNN", CalderonCNN, load_calderon, "calderon/weights.pth", 401, CALDERON_TASKS
    ),
    "deepstarr": Published(
        "DeepSTARR", deepstarr, partial(load_keras, names=_DEEPSTARR),
        "deepstarr/deepstarr.model.h5", 249, DEEPSTARR_TASKS,
    ),
    "mpra_dragonn": Published(
        "MPRA-DragoNN", mpra_dragonn, partial(load_keras, names=_DRAGONN),
        "mpra_dragonn/pretrained.hdf5", 145, MPRA_DRAGONN_TASKS,
    ),
    "xpresso": Published(
        "Xpresso", Xpresso, partial(load_named, names=_XPRESSO),
        "xpresso/human.h5", 10_500, ("expression",), (torch.zeros(1, 6),),
    ),
    "aparent2": Published(
        "APARENT2, proportion", Aparent2, load_aparent2,
        "aparent2/aparent2.h5", 205, ("proportion",),
    ),
    "aparent2_log_odds": Published(
        "APARENT2, log odds", partial(Aparent2, log_odds=True), load_aparent2,
        "aparent2/aparent2.h5", 205, ("log odds",),
    ),
}  # fmt: skip
TITLES = {name: published.title for name, published in EXTERNAL.items()}


def load_external(name: str) -> ExternalModel:
    """A published network by its name in `EXTERNAL`; its weights are downloaded if need be.

    Raises ValueError for another name, DownloadError if the file cannot be had, WeightFileError if
    it is not what it should be.
    """
    if name not in EXTERNAL:
        raise ValueError(f"name must be one of {', '.join(EXTERNAL)}; got {name!r}")
    _, build, load, file, length, tasks, args = EXTERNAL[name]
    model = build()
    load(model, fetch(f"models/{file}"))
    return ExternalModel(name, model, length, tasks, args)
