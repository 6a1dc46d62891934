"""Opening a model folder: torch's network, under the runtime's one way of judging."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from flawforge.types import ConfigError, FlawforgeError, ImageError, Init, Method
from flawforge_runtime import backends, bundle, forks
from flawforge_runtime.inspector import Inspector, Network, from_content
from flawforge_runtime.origin import origin_of
from flawforge_runtime.types import ModelError


def load(folder: str | Path, *, device: str = "auto", backend: str | None = None, threads: int | None = None) -> Inspector:
    """Open a model folder or an export, verify its hashes, and give the Inspector.

    device   "auto", "cpu" or "cuda"; an export runs on the CPU
    backend  "torch", "onnx" or "openvino"; None = the one that the folder holds
    threads  of the network, from 1 to the cores of this machine; None = all of them for an export, torch's own number else
    Threads may share the Inspector. It can be pickled: what is sent is the folder's path and the thresholds, and the
    process that it comes to opens the folder and raises ModelError where that holds another model now. A forked process
    may use its parent's; torch computes there with one thread, whatever `threads` says, and cannot use cuda where the
    parent did (ModelError), so load in the worker then.
    Raises ModelError for a folder that is no whole model, ConfigError for an option or a backend that is not there.
    """
    if not isinstance(folder, str | Path):
        raise ConfigError(f"{folder!r} was given as a model; give the path of a folder that `flawforge fit -o` wrote.")
    content = bundle.read(Path(folder))
    inspector = from_content(content, network_of(content, folder, device, backend, threads))
    return from_folder(inspector, folder, device=device, backend=backend, threads=threads)


def from_folder(inspector: Inspector, folder: str | Path, **how: Any) -> Inspector:
    """The Inspector, which `load(folder, **how)` gives as well, with its origin: so it can be pickled."""
    assert inspector.content is not None
    origin = origin_of(load, folder, inspector.content, inspector.network, inspector.about["model_id"], **how)
    return replace(inspector, origin=origin)


def network_of(
    content: bundle.Content, folder: str | Path, device: str, backend: str | None, threads: int | None
) -> Network:
    """The network of a folder's content, by its backend; options and errors as in `load`."""
    if content.backend != "torch":
        if device == "cuda":
            raise ConfigError(f"Device cuda was asked for, but {folder} is an export for the CPU; give --device cpu.")
        return backends.network(content, folder, backend=backend, threads=threads)
    if backend not in (None, "torch"):
        raise ConfigError(
            f"Backend {backend} was asked for, but {folder} holds torch weights; {backends.instead(backend, str(folder))}."
        )
    if threads is not None:
        import torch

        allowed = backends.threads_allowed(threads)
        torch.set_num_threads(1 if forks.inherited("torch") else allowed)
    return torch_network(content, device)


def choose_trunk(
    asked: str, method: Method, profile: Any, values: Mapping[str, Any]
) -> tuple[Any, Mapping[str, Any], Init | None]:
    """What --trunk means for a method: the settings to start from, those to change in them, and the weights, if any.

    asked    "" = the profile's own; lite0, lite1 or lite2, from an installed package; a ResNet's name, or none: learnt from
             the product, no outside weights; else as `read_init` takes it
    profile  the method's settings; `method.scratch` takes their place where a package's weights are needed and not wanted
    values   what the user sets; a `backbone` among them wins over the form that a file seems to have

    Raises ConfigError (no such trunk, a method without one, a package that is missing), ModelError (a damaged file).
    """
    from flawforge.nn import efficientnet_lite, resnet, trunks

    if method.trunk is None:
        if asked:
            raise ConfigError(
                f"--trunk was given, but method {method.name} looks at no other network's features; leave out --trunk."
            )
        return profile, values, None
    own = asked in efficientnet_lite.SHAPES or asked in resnet.VARIANTS
    if own and values.get("backbone", asked) != asked:
        raise ConfigError(f"--trunk {asked} and backbone={values['backbone']} were both given; leave out one of them.")
    weights = None
    if own:
        values = {**values, "backbone": asked}
    elif asked and asked != "none":
        weights = read_init(Path(asked), "--trunk", f"{', '.join(efficientnet_lite.SHAPES)}, none, a ResNet's name, ")
        form = values.get("backbone") or trunks.backbone_of(weights)
        if form is None:
            raise ModelError(
                f"--trunk was given as {asked}, which is of no form that is known here; name it with --set backbone=NAME."
            )
        values = {**values, "backbone": form}
    form = values.get("backbone", "" if asked == "none" else profile.backbone)
    outside = asked != "none" and (weights is not None or form in efficientnet_lite.SHAPES)
    if not outside and profile.backbone in efficientnet_lite.SHAPES:
        profile = method.scratch
    if form and weights is None and not outside and not method.scratch.backbone:
        raise ConfigError(
            f"--trunk {form} was given, but method {method.name} takes no trunk without weights; give "
            f"{', '.join(efficientnet_lite.SHAPES)}, none, a model folder or a file of weights."
        )
    if weights is None and outside:
        weights = efficientnet_lite.packaged(form)
    return profile, values, weights


def read_init(path: Path, option: str = "--init", names: str = "") -> Init:
    """Weights to start a fit from: a model folder of ours, a .safetensors file from anywhere, or timm:NAME.

    option, names  what they were given to, and what else may be given there, for the errors
    timm:NAME needs the extra "timm", which fetches the weights where it has none at hand: the one place in flawforge that
    may use a network, and only when it is asked by that name.
    Raises ConfigError for anything else (a pickle is never opened), ModelError for a damaged folder or file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if str(path).startswith("timm:"):
        data, about = _timm_weights(str(path)[len("timm:") :], option), {}
    elif path.is_dir():
        content = bundle.read(path)
        if content.backend != "torch":
            raise ConfigError(f"{option} was given as {path}, an export; give the model folder that it was exported from.")
        data, about = content.tensors, dict(content.config)
    elif path.suffix == ".safetensors" and path.is_file():
        data, about = path.read_bytes(), {}
    else:
        why = "there is no such file or folder" if not path.exists() else "it is neither"
        raise ConfigError(
            f"{option} was given as {path} ({why}); give {names}a flawforge model folder, a .safetensors file or timm:NAME "
            "(other checkpoints must be converted first, because a pickle can run code)."
        )
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ModelError(f"The weights {path} cannot be read ({error}); download or convert them again.") from error
    theirs = about.get("trunk") or {}  # a model that looks at another's features hands on where those came from
    source = f"{path}, which has them from {theirs['source']}" if theirs else str(path)
    return Init(tensors, about, hashlib.sha256(data).hexdigest(), source, theirs.get("licence") or "")


def _timm_weights(name: str, option: str) -> bytes:
    """The pretrained weights of timm's model `name`, as the bytes of a safetensors file."""
    from safetensors.torch import save

    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"{option} was given as timm:{name}, but timm is not installed; pip install 'flawforge[timm]', or give a "
            ".safetensors file."
        ) from error
    try:
        net = timm.create_model(name, pretrained=True)
    except (RuntimeError, ValueError, OSError) as error:  # an unknown name, or no network and nothing cached
        raise ConfigError(
            f"timm cannot give the weights of '{name}' ({str(error).splitlines()[0]}); give one of its pretrained models, "
            "or a .safetensors file."
        ) from error
    return save({key: value.contiguous() for key, value in net.state_dict().items()})


def torch_network(content: bundle.Content, device: str = "auto") -> Callable[[Any], tuple[Any, ...]]:
    """The model's network as a callable on numpy arrays; always float32, so that an export can match it.

    n 3 h w float32 in [0, 1] -> (map n h w, score n), and the score's own map where there is one. Raises
    ModelError for an unknown method or foreign weights.
    """
    import torch

    from flawforge.config import torch_device

    return numpy_network(torch_net(content), torch.device(torch_device(device)))


def torch_net(content: bundle.Content) -> Any:
    """The model's torch module with its weights. Raises ModelError as `torch_network`."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from flawforge.config import settings_from_dict
    from flawforge.methods import METHODS

    name = content.config["method"]
    if name not in METHODS:
        raise ModelError(f"The model's method '{name}' is unknown here; known are {', '.join(METHODS)}; update flawforge.")
    try:
        net = METHODS[name].build(settings_from_dict(type(METHODS[name].tiny), content.config["settings"]))
        tensors = load(content.tensors)
        net.load_state_dict(tensors)
        _check_weights(tensors, net.state_dict())
    except FlawforgeError:
        raise
    except (SafetensorError, RuntimeError, TypeError, ValueError, KeyError, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"The model's weights do not fit its settings ({reason}); fit again.") from error
    return net


def _check_weights(tensors: Any, expected: Any) -> None:
    """Raises ModelError for a weight of another type than the network's, which torch converts silently, or not finite."""
    for name, tensor in tensors.items():
        if name in expected and tensor.dtype != expected[name].dtype:
            raise ModelError(
                f"The model's weight {name} is {tensor.dtype}, {expected[name].dtype} is needed; copy the model again."
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(f"The model's weight {name} holds a value that is not finite; copy the model again.")


@dataclass(frozen=True)
class TorchNetwork:
    """A torch detector as numpy -> numpy, in eval mode; `placed`: it is told where pictures lie on the canvas."""

    net: Any = field(repr=False)
    device: Any
    placed: bool

    def __call__(self, batch: Any, inner: Any = None) -> tuple[Any, ...]:
        import torch

        _mind_fork(self.device)
        inputs = [
            torch.from_numpy(np.ascontiguousarray(array)).to(self.device) for array in (batch, inner) if array is not None
        ]
        try:
            with torch.inference_mode():
                evidence = self.net(*inputs)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:  # weights of other shapes
            reason = " ".join(str(error).split())[:200]
            raise ImageError(f"The network could not judge this picture ({reason}); check the model.") from error
        return tuple(array.float().cpu().numpy() for array in evidence if array is not None)


def numpy_network(net: Any, device: Any) -> Callable[[Any], tuple[Any, ...]]:
    """Wrap a torch detector in eval mode as numpy -> numpy: map, score and, where there is one, the score's own map."""
    _mind_fork(device)
    return TorchNetwork(net.to(device).eval(), device, bool(getattr(net, "placed", False)))


def _mind_fork(device: Any) -> None:
    """In a forked process torch's threads are not there, and waiting for them takes for ever: compute with one."""
    if not forks.inherited("torch"):
        return
    import torch

    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise ModelError(
            "A forked process cannot use cuda, because its parent did; load the model in the worker and nowhere else, or "
            "start workers with spawn."
        )
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
