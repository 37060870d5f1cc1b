"""Models, output functions and arguments of a model, loaded by the names that a user gives."""

from __future__ import annotations

import ast
import importlib.util
import logging
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tism import outputs

_log = logging.getLogger(__name__)
_CLASSES = {each.__name__: each for each in (outputs.Head, outputs.Total, outputs.ProfileScore)}
READY = {"counts": "Head(1)", "profile": "ProfileScore(head=0)", "total": "Total()"}
_PREFIXES = ("_orig_mod.", "module.")  # of torch.compile and of DataParallel
_TO_SAFETENSORS = (
    'state = torch.load(path, weights_only=True); state = state.get("state_dict", state); '
    'safetensors.torch.save_file({key.removeprefix("model."): value for key, value in '
    "state.items()}, new_path), where the model is called self.model in a Lightning module"
)


def load_model(
    where: str, keywords: dict[str, Any] | None = None, weights: Path | None = None
) -> nn.Module:
    """Return the module that a function returns, with weights from a safetensors file.

    where : "package.module:function" or "path/to/file.py:function"

    Raises ValueError where the function or the weights cannot be found or do not fit, and TypeError
    where the function returns no module.
    """
    with running_code(where):
        function = _function(where)
        with _naming_errors(where):
            model = function(**(keywords or {}))
    if not isinstance(model, nn.Module):
        raise TypeError(f"{where} must return a torch.nn.Module, got {type(model).__name__}")
    if weights is not None:
        _load_weights(model, weights)
    return model.eval()


def _load_weights(model: nn.Module, weights: Path) -> None:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ImportError("--weights needs safetensors: pip install 'tism[score]'") from None
    if weights.exists() and not weights.is_file():
        raise ValueError(f"{weights}: a folder or a pipe; name a safetensors file on disk")
    try:
        state = load_file(weights)
    except SafetensorError as error:
        with weights.open("rb") as file:
            pickled = file.read(4)[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04")
        kind = "a checkpoint of PyTorch or Lightning, which may hold code" if pickled else error
        remedy = _TO_SAFETENSORS if pickled else (
            "write one with safetensors.torch.save_file(model.state_dict(), path)"
        )  # fmt: skip
        raise ValueError(f"{weights}: no safetensors file ({kind}); {remedy}") from None
    wanted = model.state_dict()
    state = _without_prefixes(state, wanted, weights)
    for name in state.keys() & wanted.keys():
        kinds = state[name].dtype, getattr(wanted[name], "dtype", state[name].dtype)
        if kinds[0].is_floating_point != kinds[1].is_floating_point:
            problem = f"{name} is {kinds[0]}, but {kinds[1]} in the model"
            raise ValueError(f"{weights}: {problem}; give the weights of this model, not quantised")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{weights}: does not fit the model: {error}") from None


def _without_prefixes(
    state: dict[str, Any], wanted: dict[str, Any], weights: Path
) -> dict[str, Any]:
    """Return the weights without what a wrapper put before all names, if the model lacks it."""
    for prefix in _PREFIXES * 2:
        all_have = all(name.startswith(prefix) for name in state)
        if state and all_have and not any(name.startswith(prefix) for name in wanted):
            _log.info("%s: the prefix %s of all names is taken off", weights, prefix)
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def load_output_fn(where: str) -> Callable[..., Any]:
    """Return a function of the user, or a ready one by name and settings, as in "tism:Head(1)".

    Ready are the classes of `tism.outputs`, with or without settings, and the names of `READY`.
    """
    place, _, text = where.partition(":")
    if place != "tism":
        return load_function(where)
    try:
        call = ast.parse(READY.get(text, text), mode="eval").body
        call = call if isinstance(call, ast.Call) else ast.Call(call, [], [])
        settings = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
        return _CLASSES[call.func.id](*map(ast.literal_eval, call.args), **settings)
    except (SyntaxError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        known = ", ".join(f"tism:{name}" for name in (*READY, *_CLASSES))
        raise ValueError(f"{where!r} is no ready function; there are {known}") from None


def load_function(where: str) -> Callable[..., Any]:
    """Return the function at "package.module:function" or "path/to/file.py:function"."""
    with running_code(where):
        return _function(where)


@contextmanager
def running_code(*names: str | None) -> Iterator[None]:
    """Let a user's code run as `python file.py` runs it, without harm to the command.

    names : of its functions, as `load_function` takes them

    The folders of the files are the first of `sys.path`, and the code sees no arguments of the
    command. Where it calls `sys.exit`, a ValueError says so. The arguments, the path and the
    working directory come back as they were.
    """
    named = [name for name in names if name]
    files = [Path(name.rpartition(":")[0]) for name in named]
    home, arguments = Path.cwd(), sys.argv
    folders = [str(f.resolve().parent if f.suffix == ".py" else home) for f in files]
    sys.path[:0] = folders
    sys.argv = [str(file) for file in files[:1]]
    try:
        yield
    except SystemExit as error:
        problem = f"ended the program by sys.exit({error.code!r})"
        raise ValueError(f"{' or '.join(named)} {problem}; --debug shows where") from error
    finally:
        sys.argv = arguments
        os.chdir(home)
        for folder in folders:
            with suppress(ValueError):  # the code may have taken it off
                sys.path.remove(folder)


def _function(where: str) -> Callable[..., Any]:
    place, _, name = where.rpartition(":")
    if not place or not name:
        raise ValueError(f"{where!r} must be package.module:function or path/to/file.py:function")
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise ValueError(f"{place} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return function


def _module_of_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    file = path.resolve()
    if file not in _loaded:
        spec = importlib.util.spec_from_file_location(f"_tism_{path.stem}", file)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        with _naming_errors(path):
            spec.loader.exec_module(module)
        _loaded[file] = module, Path.cwd()
    module, folder = _loaded[file]
    os.chdir(folder)  # where its code went; `running_code` comes back
    return module


_loaded: dict[Path, tuple[Any, Path]] = {}


@contextmanager
def _naming_errors(where: Any) -> Iterator[None]:
    """Turn an error of the user's code into a ValueError that names the code."""
    try:
        yield
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where} raised {problem}; --debug shows where") from error


def _module(name: str) -> Any:
    try:
        with _naming_errors(name):
            return importlib.import_module(name)
    except ValueError as raised:
        error = raised.__cause__
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None
        if not missing or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"no module {name!r}; name a file as path/to/file.py") from None


def load_args(path: Path) -> tuple[np.ndarray, ...]:
    """Return the arrays of a .npy or .npz file: what else the model's forward takes, in order.

    Each has one row for each window, or one for all of them. Raises ValueError for other files.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = [loaded[k] for k in loaded] if hasattr(loaded, "files") else [loaded]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: no .npy or .npz file of numbers ({error})") from None
    if not all(array.ndim and array.dtype.kind in "iuf" for array in arrays):
        raise ValueError(f"{path}: every array must hold numbers, one row a window or one for all")
    return tuple(arrays)
