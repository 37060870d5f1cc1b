"""The gradient of a model with respect to its input, and TISM from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from tism import predictor
from tism.engine.cheap_gradients import cheap_graph
from tism.predictor import Job, OutputFn, Predictor, job_of
from tism.running import Tasks, in_one_tensor, is_out_of_memory, uncompiled
from tism.taylor import tism_from_gradient

# Batch of a forward pass over that of a gradient, by speed on a CPU: one backward pass prefers
# large batches; many passes through one graph prefer a graph that stays in the cache.
_ONE_PASS, _MANY_PASSES = 4 / 3, 4
_NO_GRADIENT = (
    "the model's output does not depend differentiably on its input (an argmax, detach or no_grad "
    "inside?), so it has no gradient; exact ISM still applies"
)


def input_gradient(
    model: nn.Module,
    one_hot: Any,
    tasks: Tasks = None,
    *,
    start: int = 0,
    stop: int | None = None,
    args: Sequence[Any] = (),
    output_fn: OutputFn | None = None,
    autocast: torch.dtype | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Tensor:
    """Gradient of every task's prediction with respect to the one-hot sequence.

    model : maps (n, 4, length) to (n, tasks); it runs in evaluation mode, and a prediction must not
        depend on the other sequences of its batch
    one_hot : (n, 4, length), rows A, C, G, T; zeros for N
    tasks : None for all, an int, a sequence of ints or a slice
    start, stop : positions that are returned, as in a Python slice
    args : what else forward takes; tensors with one row a sequence, or one row for all
    output_fn : maps what the model returns (tuple, dict, profile) to (n, tasks)
    autocast : torch.bfloat16 or torch.float16 to run the model in low precision; what it costs in
        accuracy is measured in "Which score should I use"
    batch_size : sequences at once; None chooses; halved if memory runs out
    device : where to run; None stays where the model is
    progress : show a bar (needs tqdm)

    Returns (n, n_tasks, 4, stop - start) on the CPU in float32, or the model's dtype if wider, in
    model output per unit of input. Costs one forward and n_tasks backward passes a sequence.
    Raises TypeError or ValueError naming the argument that is wrong. Warns (`UserWarning`) if
    predictions differ from call to call or with their batch, if scores are not finite, and before
    it takes all of more than 1,000 tasks.
    """
    lent = {"output_fn": output_fn, "device": device, "args": args, "autocast": autocast}
    with job_of(model, one_hot, tasks, start, stop, batch_size, progress, **lent) as job:
        return gradient_anywhere(job)


def tism(
    model: nn.Module,
    one_hot: Any,
    tasks: Tasks = None,
    *,
    start: int = 0,
    stop: int | None = None,
    args: Sequence[Any] = (),
    output_fn: OutputFn | None = None,
    autocast: torch.dtype | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Tensor:
    """Taylor-approximated in silico saturation mutagenesis (Eq. 7 of Sasse et al. 2024).

    Arguments, warnings and errors as in `input_gradient`. Returns (n, n_tasks, 4, stop - start) in
    the unit of the model's output: an estimate of `tism.ism`, zero at reference bases; at an N the
    gradient itself.

    >>> import torch, tism
    >>> model = tism.build_model("baseline", length=8, n_tasks=2, width=4, seed=0)
    >>> tism.tism(model, tism.one_hot_encode("ACGTACGT")).shape
    torch.Size([1, 2, 4, 8])
    """
    lent = {"output_fn": output_fn, "device": device, "args": args, "autocast": autocast}
    with job_of(model, one_hot, tasks, start, stop, batch_size, progress, **lent) as job:
        return taylor_scores(job)


def taylor_scores(job: Job) -> Tensor:
    """`tism` of a job."""
    return tism_from_gradient(gradient_anywhere(job), job.stretch)


def gradient_anywhere(job: Job) -> Tensor:
    """`input_gradient` of a job, whose sequences may be any points of input space."""

    def gradient(first: int, last: int) -> Tensor:
        predict, rows = job.part(first, last)
        found, output = gradient_by_task(job, predict, rows)
        if first == 0:
            check_stability(predict, rows, output)
        return found

    batch_size = job.at_once(_ONE_PASS if isinstance(job.tasks, int) else _MANY_PASSES)
    with job.bar("gradients") as report:
        found, _ = in_one_tensor(len(job.one_hot), batch_size, gradient, report=report)
    return predictor.warn_if_not_finite(found, "gradient")


def check_stability(predict: Predictor, rows: Tensor, output: Tensor) -> None:
    """`warn_if_unstable`, with a graph if the model does not run without one."""
    try:
        predictor.warn_if_unstable(predict, rows, output)
    except RuntimeError:  # the model may need a graph, as one that calls autograd does
        with torch.enable_grad(), _recurrent_layers_differentiable(predict):
            predictor.warn_if_unstable(predict, rows, output)


def gradient_by_task(
    job: Job, predict: Predictor, rows: Tensor, nudge: Any = None
) -> tuple[Tensor, Tensor]:
    """(rows, n_tasks, *inner) gradient of each task of a job, and (rows, tasks) predictions.

    The gradient is on the CPU; that at a nudge stays where the model is. If cheap gradients fail or
    are not finite, torch computes the batch once more without them.

    rows : (rows, 4, length), prepared; predict : of these
    nudge : a function mode with a `leaf`, (rows, *inner), at which the gradient is taken; without
        one it is taken in the job's window of the rows
    """
    cheap = partial(cheap_graph, repeated=not isinstance(job.tasks, int))
    plain = uncompiled if nudge else nullcontext
    build = partial(output_with_graph, predict, rows, nudge)
    choose = partial(job.chosen, gradients=True)
    kept = slice(None) if nudge else slice(job.window.start, job.window.stop)
    with torch.enable_grad():
        try:
            gradient, output = _task_by_task(partial(build, cheap), choose, kept)
            gradient = gradient if nudge else gradient.cpu()  # one wait for a device, not two
            if gradient.isfinite().all():
                return gradient, output
        except Exception as error:  # whatever it is, torch alone may do better
            if is_out_of_memory(error) and len(rows) > 1:
                raise
        return _task_by_task(partial(build, plain), choose, kept, afresh=True)


def output_with_graph(
    predict: Predictor, rows: Tensor, nudge: Any, within: Callable[[], AbstractContextManager]
) -> tuple[Tensor, Tensor]:
    """Predictions, and the leaf of their graph: a copy of the rows, or that of the nudge."""
    leaf = rows if nudge else rows.clone().requires_grad_()
    inputs = leaf.clone()  # a model may change its input in place, which a leaf refuses
    with within(), _recurrent_layers_differentiable(predict), nudge or nullcontext():
        output = predict(inputs)
    return output, nudge.leaf if nudge else leaf


def _recurrent_layers_differentiable(predict: Predictor) -> AbstractContextManager:
    """Without cuDNN, whose recurrent layers cannot be differentiated in evaluation mode."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in predict.model.modules())
    without = recurrent and predict.device.type == "cuda"
    return torch.backends.cudnn.flags(enabled=False) if without else nullcontext()


def _task_by_task(
    build: Callable[[], tuple[Tensor, Tensor]],
    choose: Callable[[int], list[int]],
    kept: slice,
    afresh: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gradients and predictions; a pass that fails is repeated on a new graph if `afresh`."""
    output, leaf = build()
    chosen = choose(output.shape[1])
    if not output.requires_grad:
        raise ValueError(_NO_GRADIENT)
    wider = torch.promote_types(torch.float32, output.dtype)
    shape = (len(leaf), len(chosen), *leaf[..., kept].shape[1:])
    gradient = torch.zeros(shape, dtype=wider, device=leaf.device)
    depends = False  # what is differentiable may be weights that the model does not register
    for column, task in enumerate(chosen):
        total, more = output[:, task].sum(), column + 1 < len(chosen)
        try:
            part = torch.autograd.grad(total, leaf, retain_graph=more, allow_unused=True)[0]
        except Exception as error:
            if not afresh or is_out_of_memory(error):
                raise
            part = _gradient_afresh(build, task)
        if part is not None:
            gradient[:, column], depends = part[..., kept], True
    if not depends:
        raise ValueError(_NO_GRADIENT)
    return gradient, output.detach()


def _gradient_afresh(build: Callable[[], tuple[Tensor, Tensor]], task: int) -> Tensor | None:
    """The gradient of one task from a graph of its own; None if it does not depend on the leaf.

    Some graphs serve one pass only, and reentrant checkpoints need `backward` instead of `grad`.
    """
    output, leaf = build()
    try:
        output[:, task].sum().backward()
    except RuntimeError as error:
        if type(error) not in (RuntimeError, CheckpointError) or is_out_of_memory(error):
            raise
        raise predictor.ModelError(
            f"model cannot be differentiated by torch: {error}; exact ISM still applies"
        ) from error
    return leaf.grad
