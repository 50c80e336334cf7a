"""Published figures and recipes of attacks, each read in its source; others are not here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A figure that a paper gives for an attack.

    Attributes:
        task: as our data names it.
        head: as ours are named.
        accuracy: of the surrogate, 0 to 1.
        target: accuracy of the paper's target on the same task, 0 to 1.
        queries: as the paper counts them.
        source: paper and table.
        cause: why ours may differ, one sentence.
    """

    task: str
    head: str
    accuracy: float
    target: float
    queries: int
    source: str
    cause: str


PUBLISHED = {
    "infonce": Published(
        task="cifar10",
        head="linear",
        accuracy=0.652,
        target=0.9041,
        queries=50_000,
        source="B4B (NeurIPS 2023), Table 1, attack without a defense",
        cause=(
            "Its target is a SimSiam ResNet-50 of ImageNet, which is better by more than 20 "
            "points, and its code sends new crops in each of 100 epochs and counts 50,000 images."
        ),
    ),
}
"""By our preset."""

RECIPES = {
    "conventional": (2_500, 2_500),
    "stolen_encoder": (2_500, 2_500),
    "stolen_encoder_paper": (2_500, 2_500),
    "rda": (2_500, 25_000),
    "rda_paper": (2_500, 25_000),
    "cont_steal": (2_500, 250_000),
    "cont_steal_paper": (50_000, 5_000_000),
}
"""By our preset: images that a published recipe names, and the answers that its code asks for.

2,500 images are those of the code of RDA, which has the other attacks, too: it sends ten views of
each image, and for Cont-Steal a view of each in each of 100 epochs. Cont-Steal's own code
(`cont_steal_paper`) does the latter with all training images of CIFAR-10. Sources are in the files
of `conf/attack`.
"""

UNKNOWN = "not published in a form that we could read"
"""What stands for the figure of any other attack."""
