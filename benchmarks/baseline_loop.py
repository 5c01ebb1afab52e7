"""The baseline's training loop, written afresh from its description: what our training is compared with.

Claim: trained in full, it reaches what its public runs reached, 57 to 60 % after 50 epochs, 60.63 % at best.

Each image goes through PIL, ToTensor and Normalize in one of two DataLoader workers; batch 64, SGD with learning rate
0.01 and no momentum, fp32, dropout, nll_loss, no augmentation. The images are those of data/prepared, training split.

    python -m benchmarks.baseline_loop --epochs 50
"""

import argparse
import time

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from benchmarks.measure import report
from pipelines.outputs.prepared_data import load_meta, load_split
from pipelines.runtime.errors import UserError, run

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class SeedNetwork(nn.Module):
    """The tutorial's network widened to three channels: 39,884 parameters, images of 3×32×32."""

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


class SeedImages(Dataset):
    """One image at a time, the way torchvision's CIFAR10 gives it."""

    def __init__(self, split: str):
        if (shape := load_meta()["image_shape"]) != [3, 32, 32]:
            raise UserError(
                f"data/prepared: images of {shape}; this benchmark is about the baseline network on [3, 32, 32]"
            )
        images, labels = load_split(split)
        self.images_NHWC, self.labels = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        self.transform = Compose([ToTensor(), Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image: Tensor = self.transform(Image.fromarray(self.images_NHWC[index]))  # pyright: ignore[reportAssignmentType]
        return image, self.labels[index]


class SeedLoop:
    """The baseline's training: a new network, the training split, one epoch at a time."""

    def __init__(self, seed: int = 0):
        torch.manual_seed(seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = SeedNetwork().to(self.device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01)
        self.loader = self._load("train", shuffle=True)

    def _load(self, split: str, shuffle: bool) -> DataLoader:
        pin = self.device.type == "cuda"
        return DataLoader(SeedImages(split), batch_size=64, shuffle=shuffle, num_workers=2, pin_memory=pin)

    def epoch(self) -> float:
        """Train one epoch; the seconds it took."""
        started = time.perf_counter()
        self.network.train()
        for images, labels in self.loader:
            self.optimizer.zero_grad()
            loss = F.nll_loss(self.network(images.to(self.device)), labels.to(self.device))
            loss.backward()
            self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    @torch.no_grad()
    def test_accuracy(self) -> float:
        """Share of the test images classified correctly."""
        self.network.eval()
        loader = self._load("test", shuffle=False)
        right = sum(
            (self.network(images.to(self.device)).argmax(1).cpu() == labels).sum().item() for images, labels in loader
        )
        return right / len(loader.dataset)  # pyright: ignore[reportArgumentType]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=50)
    epochs = parser.parse_args().epochs
    loop, seconds, accuracies = SeedLoop(), [], []
    for epoch in range(1, epochs + 1):
        seconds.append(loop.epoch())
        accuracies.append(100 * loop.test_accuracy())
        print(f"epoch {epoch}/{epochs}: {seconds[-1]:.1f} s, test accuracy {accuracies[-1]:.2f} %", flush=True)
    figures = {"seconds an epoch": seconds, "test accuracy of the last ten epochs, %": accuracies[-10:]}
    report("baseline_loop", figures | {"test accuracy of the best epoch, %": [max(accuracies)]})


if __name__ == "__main__":
    run(main)
