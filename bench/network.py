"""The reference network as a PyTorch module: what the rival engines run."""

import torch
from torch import nn

# Output channels and stride of the thirteen blocks (the paper's Table 1).
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def convolution(inputs, outputs, kernel, stride=1, groups=1):
    """A convolution without bias, batch normalisation, ReLU."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


class MobileNet(nn.Module):
    """Its tensors have the names of the PyTorch form that `mobilenet import` calls `reference`."""

    def __init__(self, width, classes=1000):
        super().__init__()

        def thin(channels):
            return max(int(width * channels), 8)

        channels = thin(32)
        parts = [nn.Sequential(*convolution(3, channels, 3, stride=2))]
        for outputs, stride in BLOCKS:
            depthwise = convolution(channels, channels, 3, stride, groups=channels)
            parts.append(nn.Sequential(*depthwise, *convolution(channels, thin(outputs), 1)))
            channels = thin(outputs)
        self.model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(channels, classes)

    def forward(self, images):
        return self.fc(self.model(images).flatten(1))


def random_network(width, images):
    """Random weights with which every layer counts: scales and shifts of batch normalisation differ by
    channel, and its statistics are those of `images`, so that values neither vanish nor grow."""
    torch.manual_seed(0)
    network = MobileNet(width)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0.1, 0.2)
            module.momentum = 1.0
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, module.in_features**-0.5)
    with torch.no_grad():
        network.train()(images)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return network.eval()
