"""How each method predicts the effect of every substitution, from a model with one task."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tism.budgeted import budgeted_ism
from tism.exact import ism
from tism.first_order import input_gradient, tism
from tism.layerwise import depths, layerwise_tism
from tism.model import BothStrandsConv, SoftmaxPool
from tism.predictor import evaluating
from tism.sequence import validate_one_hot
from tism.study.ch08_networks import ExternalModel
from tism.taylor import centre, gradient_times_input, tism_from_gradient

EffectPredictor = Callable[[nn.Module, Tensor], Tensor]
N_SHUFFLES = 20
N_EXACT = 50  # substitutions a sequence that budgeted ISM computes


class MeanTask(nn.Module):
    """The mean of some tasks of a model, for sequences that may be shorter than its input.

    length : of the sequences; unknown bases (zeros) on both sides fill up the model's input
    """

    def __init__(self, external: ExternalModel, tasks: Sequence[int], length: int) -> None:
        super().__init__()
        missing = max(0, external.length - length)
        self.model, self.tasks = external.model, list(tasks)
        self.padding = (missing - missing // 2, missing // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4, length) to (n, 1)."""
        if any(self.padding):
            x = F.pad(x, self.padding)
        return self.model(x)[:, self.tasks].mean(1, keepdim=True)


def removal_effect(contribution: Tensor, one_hot: Tensor) -> Tensor:
    """The effects that a map of the reference bases predicts: a substitution loses their share.

    contribution : (n, tasks, 4, length), read at the reference bases; one_hot : (n, 4, length)

    Returns that shape: minus the contribution at each of the three alternate bases, zero at the
    reference and at N.
    """
    reference = one_hot[:, None].to(contribution)
    lost = (contribution * reference).sum(2, keepdim=True)
    return -lost * (1 - reference)


def deep_lift_multipliers(model: nn.Module, one_hot: Tensor) -> tuple[Tensor, float]:
    """DeepLIFT/SHAP multipliers of a model with one task (tangermeme), and how well they add up.

    References are dinucleotide shuffles. Softmax pooling has no closed rule and is attributed by
    integrated gradients through that one layer (8 nodes), the larger of two strands by
    `strand_rule`; without them tangermeme would take both for linear.

    Returns (n, 4, length), the mean over references, and the convergence delta: the mean over
    references of |sum of contributions - difference of predictions|, divided by the mean
    |difference|; 0 if the rules account for all of the prediction.
    """
    from tangermeme.deep_lift_shap import deep_lift_shap, integrated_gradients_op
    from tangermeme.ersatz import dinucleotide_shuffle

    one_hot = validate_one_hot(one_hot).float()
    shuffled = dinucleotide_shuffle(one_hot, n=N_SHUFFLES, random_state=0, allow_N=True)
    integrated = integrated_gradients_op()
    rules = {
        SoftmaxPool: lambda module, *gradients: integrated(_ViewedPool(module), *gradients),
        BothStrandsConv: strand_rule,
    }
    options = {"raw_outputs": True, "only_warn": True, "device": "cpu"}
    with evaluating(model) as predict, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an N, and of deltas, which are returned
        multipliers = deep_lift_shap(
            predict.model, one_hot, references=shuffled, additional_nonlinear_ops=rules, **options
        )
        with torch.no_grad():
            before = predict(predict.prepare(shuffled.flatten(0, 1))).view(-1, N_SHUFFLES)
            gain = predict(predict.prepare(one_hot)) - before
    contributed = ((one_hot[:, None] - shuffled) * multipliers).sum((2, 3))
    delta = (contributed - gain).abs().mean() / gain.abs().mean().clamp(min=1e-12)
    return multipliers.mean(1), float(delta)


class _ViewedPool:
    """A `SoftmaxPool` of wide windows, in the order in which they lie in memory: its backward pass
    takes a tenth of the time."""

    def __init__(self, pool: SoftmaxPool) -> None:
        self.input, self.size = pool.input, pool.size

    def __call__(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, -x.shape[2] % self.size), value=-1e9)
        windows = x.unflatten(2, (-1, self.size))
        return (windows * windows.softmax(3)).sum(3)


def strand_rule(
    module: BothStrandsConv, grad_input: tuple[Tensor, ...], grad_output: tuple[Tensor, ...]
) -> tuple[Tensor]:
    """DeepLIFT's rescale rule for the larger of two strands: max(a, b) = b + relu(a - b).

    The signature is the one that tangermeme wants. `module.input` holds the sequences, then their
    references.
    """
    with torch.enable_grad():
        x = module.input.detach().requires_grad_()
        forward, reverse = module.conv(x), module.conv(x.flip(1, 2)).flip(2)
        ahead, before = (forward - reverse).detach().chunk(2)
        change = ahead - before
        share = (ahead.clamp(min=0) - before.clamp(min=0)) / change
        share = torch.where(change.abs() > 1e-6, share, (ahead > 0).to(share)).repeat(2, 1, 1)
        mixed = share * forward + (1 - share) * reverse
        return torch.autograd.grad(mixed, x, grad_output[0])


# Each maps a model with one task and (n, 4, length) to (n, 1, 4, length), the predicted change of
# the output by every substitution. A method added here enters every table and figure.
EFFECT_PREDICTORS: dict[str, EffectPredictor] = {
    "ISM": ism,
    "TISM": tism,
    "layer-wise TISM": lambda model, x: layerwise_tism(model, x, depth=len(depths(model, x)) // 2),
    "budgeted ISM": lambda model, x: budgeted_ism(model, x, m=N_EXACT).estimate,
    "gradient x input": lambda model, x: removal_effect(
        gradient_times_input(input_gradient(model, x), x), x
    ),
    "corrected gradient": lambda model, x: removal_effect(centre(input_gradient(model, x)), x),
    "DeepLIFT/SHAP": lambda model, x: tism_from_gradient(
        deep_lift_multipliers(model, x)[0][:, None], x
    ),
}
