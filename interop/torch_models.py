"""MobileNet v1 as PyTorch users have it: the reference network, timm's and transformers', with
random weights whose logits are of order one and whose BN statistics are not trivial."""

import torch
from torch import nn

WIDE = [64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
STRIDES = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]


class Reference(nn.Module):
    """The reference network: `model.0.{0,1}`, `model.N.{0,1,3,4}`, `fc`."""

    def __init__(self, width_multiplier=1.0, classes=1000):
        super().__init__()

        def conv_bn(inputs, outputs, stride):
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
            )

        def conv_dw(inputs, outputs, stride):
            return nn.Sequential(
                nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
                nn.BatchNorm2d(inputs),
                nn.ReLU(inplace=True),
                nn.Conv2d(inputs, outputs, 1, 1, 0, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            )

        widths = [int(width_multiplier * channels) for channels in [32] + WIDE]
        blocks = [conv_dw(i, o, s) for i, o, s in zip(widths, widths[1:], STRIDES)]
        self.model = nn.Sequential(conv_bn(3, widths[0], 2), *blocks)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x):
        return self.fc(self.model(x).mean((2, 3)))


def timm_model(width_multiplier=1.0, classes=1000):
    import timm
    from timm.models.efficientnet import _gen_mobilenet_v1

    if width_multiplier == 1.0:
        return timm.create_model("mobilenetv1_100", pretrained=False, num_classes=classes)
    # timm's own builder, of a width that it has no name for.
    return _gen_mobilenet_v1("mobilenetv1_100", width_multiplier, pretrained=False, num_classes=classes)


def transformers_model(width_multiplier=1.0, classes=1001, size=224, names=None):
    from transformers import MobileNetV1Config, MobileNetV1ForImageClassification

    names = names or ["background"] + [f"class {i}" for i in range(1, classes)]
    config = MobileNetV1Config(
        depth_multiplier=width_multiplier,
        image_size=size,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    return MobileNetV1ForImageClassification(config)


def logits(network, images):
    """Logits of `[N, H, W, 3]` images, normalised."""
    network.eval()
    with torch.no_grad():
        result = network(torch.as_tensor(images).permute(0, 3, 1, 2).contiguous())
    return getattr(result, "logits", result)


@torch.no_grad()
def randomise(network, seed, size):
    """Random weights; BN statistics near, but not at, those of random images."""
    torch.manual_seed(seed)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.weight[0].numel()
            module.weight.normal_(0, (2 / fan) ** 0.5)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0, 2 / module.in_features**0.5)
            module.bias.normal_(0, 0.5)
    for norm in norms:
        norm.weight.uniform_(0.6, 1.4)
        norm.bias.normal_(0.3, 0.4)
        norm.reset_running_stats()
        norm.momentum = None  # The plain mean over batches.
    network.train()
    network(torch.randn(16, 3, size, size))
    for norm, momentum in zip(norms, momenta):
        norm.running_mean.add_(torch.randn_like(norm.running_mean) * 0.1)
        norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.8, 1.25)).add_(0.01)
        norm.num_batches_tracked.fill_(1234)
        norm.momentum = momentum
    return network.eval()
