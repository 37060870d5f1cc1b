"""How work is run: batches that fit into memory, tasks, devices, progress bars."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tasks = int | slice | Sequence[int] | None
Report = Callable[[float], None]  # is told of rows or sequences that are done
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt}{unit} [{elapsed}<{remaining}]"
# Bases in a batch: enough to fill a GPU; on a CPU activations stay below 32 MB, which the
# allocator reuses (with 300 channels, half the batch takes 3/4 of the time a sequence).
_BASES_PER_BATCH = {"cpu": 2**14, "mps": 2**18, "cuda": 2**20}


def in_batches(
    total: int,
    batch_size: int,
    step: Callable[[int, int], None],
    report: Report | None = None,
    smallest: int = 1,
) -> int:
    """Call step(start, stop) over range(total), halving the batch whenever memory runs out.

    Returns the batch size that fitted, for the next call. `report` gets the number of rows done.
    A batch of `smallest` rows or fewer is not halved: the error is raised.
    """
    start = 0
    while start < total:
        stop = min(start + batch_size, total)
        try:
            step(start, stop)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or stop - start <= smallest:
                raise
        else:
            if report is not None:
                report(stop - start)
            start = stop
            continue
        # Outside the handler: the exception and the tensors its traceback holds are gone by now.
        batch_size = (stop - start) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return batch_size


def in_one_tensor(
    total: int,
    batch_size: int,
    compute: Callable[[int, int], Tensor],
    report: Report | None = None,
    on_cpu: bool = True,
    smallest: int = 1,
) -> tuple[Tensor, int]:
    """All batches compute(start, stop) of range(total) in one tensor; see `in_batches`."""
    result: Tensor | None = None

    def step(start: int, stop: int) -> None:
        nonlocal result
        part = compute(start, stop)
        if result is None:
            device = "cpu" if on_cpu else part.device
            result = torch.empty((total, *part.shape[1:]), dtype=part.dtype, device=device)
        result[start:stop] = part

    batch_size = in_batches(total, batch_size, step, report, smallest)
    return result, batch_size


def is_out_of_memory(error: BaseException) -> bool:
    """True if a smaller batch may succeed where this error was raised."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    texts = ("out of memory", "can't allocate memory", "not enough memory")
    return any(text in str(error).lower() for text in texts)


def choose_batch_size(batch_size: int | None, length: int, device: torch.device) -> int:
    """The caller's batch size once checked, or one that suits the device."""
    if batch_size is None:
        return max(1, _BASES_PER_BATCH.get(device.type, 2**14) // length)
    batch_size = whole_number("batch_size", batch_size, "an int or None")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return min(batch_size, sys.maxsize)


def whole_number(name: str, value: Any, wanted: str = "an int") -> int:
    """An argument as an int; a TypeError that names it for anything else, bools included."""
    is_bool = isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool
    with suppress(TypeError, RuntimeError):
        if not is_bool:
            return operator.index(value)
    raise TypeError(f"{name} must be {wanted}, got {value!r}")


def checked_seed(seed: Any) -> int:
    """The seed if torch accepts it, else a TypeError or ValueError that names it."""
    seed = whole_number("seed", seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must be from -2**63 to 2**64 - 1, got {seed}")
    return seed


def select_tasks(tasks: Tasks, n_tasks: int) -> list[int]:
    """Task numbers in the requested order; negative ones count from the end."""
    chosen = _task_list(tasks, n_tasks)
    if not chosen:
        raise ValueError(f"tasks selects none of the model's {n_tasks} tasks: {tasks!r}")
    for task in chosen:
        if not -n_tasks <= task < n_tasks:
            raise ValueError(
                f"tasks has {task}, but the model has {n_tasks} tasks (0 to {n_tasks - 1})"
            )
    return [task % n_tasks for task in chosen]


def take_tasks(output: Tensor, chosen: list[int]) -> Tensor:
    """The columns of these tasks, (n, chosen)."""
    if chosen == list(range(output.shape[1])):
        return output
    return output.index_select(1, on_device(np.array(chosen), output.device))


def at_least_float32(values: Tensor) -> Tensor:
    """Floating-point numbers in float32, or in their own type if it is wider."""
    return values.to(torch.promote_types(torch.float32, values.dtype))


def on_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Values of the host on a device, sent without waiting until the device has done its work."""
    values = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == "cuda":
        values = values.pin_memory()  # a copy from other memory would wait
    return values.to(device, non_blocking=device.type != "mps")  # MPS may read what is freed


def select_positions(start: int | None, stop: int | None, length: int) -> range:
    """The positions of a Python slice; ValueError if there are none."""
    named = {"start": start, "stop": stop}
    ends = (None if v is None else whole_number(name, v) for name, v in named.items())
    window = range(length)[slice(*ends)]
    if not window:
        raise ValueError(
            f"start={start}, stop={stop} selects no position of a sequence of length {length}"
        )
    return window


def _task_list(tasks: Any, n_tasks: int) -> list[int]:
    try:
        if tasks is None or isinstance(tasks, slice):
            return list(range(n_tasks)[tasks or slice(None)])
        array = np.asarray(tasks.tolist() if isinstance(tasks, Tensor) else tasks)
        known = not array.size or (array.dtype.kind in "iu" and array.ndim <= 1)
    except (TypeError, ValueError, RuntimeError):  # ragged rows, a slice of letters, no values
        known = False
    if not known:
        raise TypeError(f"tasks must be None, an int, a sequence of ints or a slice, got {tasks!r}")
    return array.reshape(-1).tolist()


@contextmanager
def progress_bar(total: int, shown: bool, label: str) -> Iterator[Report]:
    """A function that is told of finished units and draws a bar if `shown`."""
    if not shown:
        yield lambda done: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from None
    with tqdm(total=total, desc=label, unit=" sequences", bar_format=_BAR) as bar:
        # tqdm warns if rounding takes the sum of the shares above the total
        yield lambda done: bar.update(min(done, total - bar.n))


def resolve_device(device: str | torch.device | None, home: Sequence[torch.device]) -> torch.device:
    """The device to run on; None is the first of `home`, where the model's tensors are."""
    if device is None:
        return home[0] if home else torch.device("cpu")
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        wanted = "must be a name such as 'cpu' or 'cuda:0', or a torch.device"
        error = ValueError if isinstance(device, str) else TypeError
        raise error(f"device {wanted}, got {device!r}") from None
    if not _computes(device):
        raise ValueError(f"device {str(device)!r} is not available on this machine; try 'cpu'")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _computes(device: torch.device) -> bool:
    """True if the device holds numbers that can be read back; one for shapes only does not."""
    try:
        return torch.zeros(1, device=device).tolist() == [0]
    except Exception:  # its type depends on the kind of device
        return False


def _tf32_switches() -> list[tuple[Any, str, Any]]:
    """Objects, attributes and values that let CUDA round the factors of float32 products."""
    convolution, product = torch.backends.cudnn, torch.backends.cuda.matmul
    try:
        return [(each, "allow_tf32", each.allow_tf32) for each in (convolution, product)]
    except RuntimeError:  # the user took torch's newer ones
        both = convolution.conv, product
        return [(each, "fp32_precision", each.fp32_precision) for each in both]


def rounds_to_tf32(device: torch.device) -> bool:
    """True if float32 products on a device may be those of TF32, which has 10 bits."""
    on = (True, "tf32", "none")  # the last leaves it to torch
    return device.type not in ("cpu", "mps") and any(v in on for *_, v in _tf32_switches())


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """While active, float32 products on a device are not those of TF32."""
    switches = _tf32_switches() if rounds_to_tf32(device) else []
    for owner, name, _ in switches:
        setattr(owner, name, "ieee" if name == "fp32_precision" else False)
    try:
        yield
    finally:
        for switch in switches:
            setattr(*switch)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore torch's random state on the CPU and on `device`."""
    on_gpu = device.type == "cuda" and torch.cuda.is_available()
    on_mps = device.type == "mps" and torch.backends.mps.is_available()
    state = torch.mps.get_rng_state() if on_mps else None
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        try:
            yield
        finally:
            if state is not None:
                torch.mps.set_rng_state(state)


def uncompiled() -> AbstractContextManager:
    """While active, compiled models run as plain Python, so that a mode sees every function."""
    needed = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")  # torch 2.6
    return torch.compiler.set_stance("force_eager") if needed else nullcontext()
