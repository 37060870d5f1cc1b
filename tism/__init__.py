"""Exact and Taylor-approximated in silico saturation mutagenesis for PyTorch models of DNA."""

from tism import outputs as outputs
from tism.agreement import Reliability, reliability
from tism.budgeted import Budgeted, budgeted_ism
from tism.double_mutants import interactions
from tism.exact import ism, predict
from tism.first_order import input_gradient, tism
from tism.layerwise import depths, layerwise_tism
from tism.model import build_model
from tism.sequence import decode, one_hot_encode, reverse_complement
from tism.taylor import centre, gradient_times_input, hypothetical, mean_effect, tism_from_gradient

__version__ = "0.2.0"

__all__ = [
    "Budgeted",
    "Reliability",
    "budgeted_ism",
    "build_model",
    "centre",
    "decode",
    "depths",
    "gradient_times_input",
    "hypothetical",
    "input_gradient",
    "interactions",
    "ism",
    "layerwise_tism",
    "mean_effect",
    "one_hot_encode",
    "predict",
    "reliability",
    "reverse_complement",
    "tism",
    "tism_from_gradient",
]
