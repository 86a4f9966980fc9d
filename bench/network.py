"""The reference network as a PyTorch module: what the rival engines run."""

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
    def __init__(self, width, classes=1000):
        super().__init__()

        def thin(channels):
            return max(int(width * channels), 8)

        channels = thin(32)
        layers = convolution(3, channels, 3, stride=2)
        for outputs, stride in BLOCKS:
            layers += convolution(channels, channels, 3, stride, groups=channels)
            layers += convolution(channels, thin(outputs), 1)
            channels = thin(outputs)
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images):
        return self.classifier(self.body(images).mean((2, 3)))
