"""The training loop of the baseline, reimplemented from its description for comparison with this project's training.

Claim: a full training reaches the accuracy of the baseline's public runs: 57 to 60 % after 50 epochs, 60.63 % at best.

Each image passes through PIL, ToTensor and Normalize in one of two DataLoader workers. Batch size 64, SGD with a
learning rate of 0.01 and without momentum, fp32, dropout, nll_loss, no augmentation. The images are the training split
of data/prepared.

    python -m benchmarks.baseline_loop --epochs 50
"""

import argparse
import time

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from benchmarks.baseline_network import BaselineNetwork
from benchmarks.measure import report
from pipelines.outputs.prepared_data import load_meta, load_split
from pipelines.runtime.errors import UserError, run_main
from stn.training import default_device

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGE_SHAPE = (3, 32, 32)


class BaselineImages(Dataset):
    """A split of the prepared data, one image at a time, like torchvision's CIFAR10.

    Raises:
        UserError: the prepared images have another shape than :data:`IMAGE_SHAPE`.
    """

    def __init__(self, split: str):
        if (shape := load_meta().image_shape) != IMAGE_SHAPE:
            raise UserError(
                f"data/prepared: images of {list(shape)}; the baseline network requires {list(IMAGE_SHAPE)}"
            )
        images, labels = load_split(split)
        self.images_NHWC, self.labels = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        self.transform = Compose([ToTensor(), Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image: Tensor = self.transform(Image.fromarray(self.images_NHWC[index]))  # pyright: ignore[reportAssignmentType]
        return image, self.labels[index]


class BaselineLoop:
    """The baseline's training of a new network on the training split, one epoch at a time."""

    def __init__(self, seed: int = 0):
        torch.manual_seed(seed)
        self.device = default_device()
        self.network = BaselineNetwork().to(self.device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01)
        self.loader = self._make_loader("train", shuffle=True)

    def _make_loader(self, split: str, shuffle: bool) -> DataLoader:
        pin = self.device.type == "cuda"
        return DataLoader(BaselineImages(split), batch_size=64, shuffle=shuffle, num_workers=2, pin_memory=pin)

    def train_epoch(self) -> float:
        """Train one epoch; return its duration in seconds."""
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
        """Return the share of correctly classified test images."""
        self.network.eval()
        loader = self._make_loader("test", shuffle=False)
        right = sum(
            (self.network(images.to(self.device)).argmax(1).cpu() == labels).sum().item() for images, labels in loader
        )
        return right / len(loader.dataset)  # pyright: ignore[reportArgumentType]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=50)
    epochs = parser.parse_args().epochs
    loop, seconds, accuracies = BaselineLoop(), [], []
    for epoch in range(1, epochs + 1):
        seconds.append(loop.train_epoch())
        accuracies.append(100 * loop.test_accuracy())
        print(f"epoch {epoch}/{epochs}: {seconds[-1]:.1f} s, test accuracy {accuracies[-1]:.2f} %", flush=True)
    metrics = {
        "epoch, s": seconds,
        "test accuracy of the last ten epochs, %": accuracies[-10:],
        "test accuracy of the best epoch, %": [max(accuracies)],
    }
    report("baseline_loop", metrics)


if __name__ == "__main__":
    run_main(main)
