"""A kNN monitor: how good the encoder is while it trains, on a slice of train and never on a test split."""

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torchmetrics.functional.classification import multiclass_accuracy

from stealing.data.images import Images, take
from stealing.evaluation.features import encode_all
from stealing.evaluation.knn import knn_predict
from stealing.pretraining.simclr import SimCLRModule


class KNNMonitor(Callback):
    """Logs `pretrain/knn` at the end of each epoch: four fifths of the slice are the bank, one fifth is asked about.

    Args:
        images: the labelled training split.
        count: images of the slice, at most the whole split.
    """

    def __init__(self, images: Images, count: int) -> None:
        self.slice = take(images, min(count, len(images)))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure; the encoder's weights, buffers and mode stay as they were."""
        assert isinstance(pl_module, SimCLRModule)
        if not trainer.is_global_zero:
            return
        features, labels = encode_all(pl_module.encoder, self.slice), torch.from_numpy(self.slice.targets())
        cut = len(labels) * 4 // 5
        classes = self.slice.classes
        found = knn_predict(features[:cut], labels[:cut], features[cut:], classes=classes, k=20, temperature=0.1)
        accuracy = multiclass_accuracy(found, labels[cut:], num_classes=classes, average="micro")
        pl_module.log("pretrain/knn", accuracy, rank_zero_only=True)
