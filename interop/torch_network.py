"""MobileNet v1 in PyTorch, with explicit padding."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from cases import STEPS
from rows import layers


def depthwise(x, weight, stride, dilation):
    """Depthwise convolution tap by tap: F.conv2d takes minutes over it in double precision."""
    high, wide = (size - 2 * dilation for size in x.shape[2:])
    taps = [(ky, kx) for ky in range(3) for kx in range(3)]
    return sum(
        x[:, :, ky * dilation :, kx * dilation :][:, :, :high:stride, :wide:stride] * weight[:, 0, ky, kx, None, None]
        for ky, kx in taps
    )


class MobileNet:
    """The network over a dictionary of tensors, with PyTorch's functional operators."""

    def __init__(self, a, weights, dtype):
        self.architecture, self.rows = a, layers(a)
        self.tensors = {name: torch.tensor(value, dtype=dtype) for name, value in weights.items()}
        for name, tensor in self.tensors.items():
            tensor.requires_grad_("running" not in name)

    def parameters(self):
        return {name: tensor for name, tensor in self.tensors.items() if tensor.requires_grad}

    def __call__(self, x, training, adjust=None):
        """Logits of `[N, H, W, C]` images. `adjust` sees each beta and pre-activation and may
        change the former."""
        conventions, t = self.architecture["conventions"], self.tensors
        x = x.permute(0, 3, 1, 2)
        for name, kind, inputs, _, stride, dilation, (before, after) in self.rows:
            # Explicit zeros, so that uneven pads need no operator of their own.
            x = F.pad(x, (before, after, before, after))
            groups = inputs if kind == "depthwise" else 1
            if kind == "depthwise" and x.dtype == torch.float64:
                x = depthwise(x, t[f"{name}.weight"], stride, dilation)
            else:
                x = F.conv2d(x, t[f"{name}.weight"], stride=stride, dilation=dilation, groups=groups)
            raw, beta = x, t[f"{name}.bn.bias"]

            def normalise(momentum):
                return F.batch_norm(
                    raw,
                    t[f"{name}.bn.running_mean"],
                    t[f"{name}.bn.running_var"],
                    t[f"{name}.bn.weight"],
                    beta,
                    training,
                    momentum,
                    conventions["bn_epsilon"],
                )

            if adjust:
                adjust(beta, normalise(0.0))
            x = normalise(conventions["bn_momentum"])
            x = F.relu6(x) if conventions["activation"] == "relu6" else F.relu(x)
        x = x.mean((2, 3))
        return F.linear(x, t["classifier.weight"], t["classifier.bias"])


@torch.no_grad()
def avoid_kinks(a, weights, images, margin):
    """Shifts each beta (in place, in float32) by the least that leaves no pre-activation of this
    batch, in training mode, nearer than `margin` to a kink of the activation.

    Gradients can only be compared where rounding does not decide on which side of a kink a value
    lies. Returns the least distance that is left.
    """
    kinks = (0.0, 6.0) if a["conventions"]["activation"] == "relu6" else (0.0,)
    net = MobileNet(a, weights, torch.float64)
    shifts = np.array([0.0] + [sign * k / 800 for k in range(1, 401) for sign in (1, -1)])
    least = math.inf

    def adjust(beta, normalised):
        nonlocal least
        for channel, values in enumerate(normalised.transpose(0, 1).flatten(1).sort(1)[0].numpy()):
            clearance = np.full(len(shifts), np.inf)
            for kink in kinks:
                # The neighbours of what the shift brings onto the kink.
                after = np.searchsorted(values, kink - shifts)
                for neighbour in (after - 1, after):
                    distance = np.abs(values[neighbour.clip(0, len(values) - 1)] + shifts - kink)
                    clearance = np.minimum(clearance, distance)
            enough = np.flatnonzero(clearance >= margin)
            choice = enough[0] if len(enough) else clearance.argmax()
            beta[channel] = (beta[channel] + shifts[choice]).float()
            least = min(least, clearance[choice])

    net(torch.tensor(images, dtype=torch.float64), True, adjust)
    for name in weights:
        if name.endswith(".bn.bias"):
            weights[name] = net.tensors[name].detach().float().numpy()
    return least


def train(a, weights, batches, smoothing, sgd, dtype):
    """Inference and training logits, gradients and running statistics of the first batch, and the
    losses of STEPS steps of SGD that take the batches in turn."""
    net = MobileNet(a, weights, dtype)
    images = [torch.tensor(i, dtype=dtype) for i, _ in batches]
    labels = [torch.tensor(l) for _, l in batches]
    result, losses = {}, []
    with torch.no_grad():
        result["logits.infer"] = net(images[0], False)
    optimizer = torch.optim.SGD(net.parameters().values(), **sgd)
    for step in range(STEPS):
        logits = net(images[step % len(batches)], True)
        loss = F.cross_entropy(logits, labels[step % len(batches)], label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            result["logits.train"] = logits.detach()
            for name, tensor in net.tensors.items():
                if tensor.requires_grad:
                    result[f"grad/{name}"] = tensor.grad.clone()
                else:
                    result[f"after/{name}"] = tensor.clone()
        optimizer.step()
        losses.append(loss.item())
    return {**{name: value.double().numpy() for name, value in result.items()}, "losses": np.array(losses)}
