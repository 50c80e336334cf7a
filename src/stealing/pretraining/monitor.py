"""The kNN monitor: labelled training images in, the encoder's accuracy after each epoch out.

It never reads a test split.
"""

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torchmetrics.functional.classification import multiclass_accuracy

from stealing.data.images import Images, take
from stealing.encoders import Encoder
from stealing.evaluation.features import encode_all
from stealing.evaluation.knn import knn_predict

NEIGHBOURS = 20
TEMPERATURE = 0.1


class KNNMonitor(Callback):
    """Logs `pretrain/knn` at the end of each epoch.

    Four fifths of a slice of the training split vote on the last fifth.

    Args:
        images: the labelled training split.
        count: images of the slice; the whole split if it has fewer.
    """

    def __init__(self, images: Images, count: int) -> None:
        self.slice = take(images, min(count, len(images)))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure; the encoder's weights, buffers and mode stay as they were."""
        # no collective here: the others train on and meet this process in their next step
        if not trainer.is_global_zero:
            return
        encoder = pl_module.encoder
        assert isinstance(encoder, Encoder)
        features = encode_all(encoder, self.slice)
        labels = torch.from_numpy(self.slice.targets())
        cut = len(labels) * 4 // 5
        predicted = knn_predict(
            features[:cut],
            labels[:cut],
            features[cut:],
            classes=self.slice.classes,
            k=NEIGHBOURS,
            temperature=TEMPERATURE,
        )
        accuracy = multiclass_accuracy(
            predicted, labels[cut:], num_classes=self.slice.classes, average="micro"
        )
        pl_module.log("pretrain/knn", accuracy, rank_zero_only=True)
