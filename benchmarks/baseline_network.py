"""The network of the baseline loop, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BaselineNetwork(nn.Module):
    """The network of PyTorch's tutorial with three input channels: 39,884 parameters, images of 3×32×32."""

    def __init__(self) -> None:
        super().__init__()
        self.localization = nn.Sequential(
            nn.Conv2d(3, 8, 7), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(8, 10, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
            nn.Linear(160, 32), nn.ReLU(),
        )  # fmt: skip
        self.theta = nn.Linear(32, 6)
        nn.init.zeros_(self.theta.weight)
        self.theta.bias.data = torch.tensor([1.0, 0, 0, 0, 1, 0])
        self.conv1, self.conv2 = nn.Conv2d(3, 10, 5), nn.Conv2d(10, 20, 5)
        self.dropout2d, self.dropout = nn.Dropout2d(), nn.Dropout()
        self.fc1, self.fc2 = nn.Linear(500, 50), nn.Linear(50, 10)

    def forward(self, images: Tensor) -> Tensor:
        theta = self.theta(self.localization(images)).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, align_corners=False)
        features = F.relu(F.max_pool2d(self.conv1(images), 2))
        features = F.relu(F.max_pool2d(self.dropout2d(self.conv2(features)), 2))
        return F.log_softmax(self.fc2(self.dropout(F.relu(self.fc1(features.flatten(1))))), dim=1)
