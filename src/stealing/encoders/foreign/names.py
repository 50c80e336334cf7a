"""Names of weights in other programs' checkpoints: which are the encoder's, a head's, another's.

Rules are data. They were read from the released code of the programs that the docs name: MoCo,
SimSiam, BYOL, SwAV, DINO, solo-learn, lightly, StolenEncoder, Cont-Steal, timm and torchvision.
"""

import re
from collections.abc import Sequence

WRAPPERS = frozenset({"module", "_orig_mod"})
"""Parts of names that DistributedDataParallel and torch.compile add."""

HEADS = frozenset(
    {
        "center",
        "classification_head",
        "classifier",
        "contrastive_head",
        "fc",
        "g",
        "head",
        "head_dist",
        "heads",
        "last_layer",
        "linear",
        "linear_head",
        "mlp_head",
        "online_predictor",
        "predictor",
        "prediction_head",
        "projection",
        "projection_head",
        "projector",
        "projetion",
        "prototypes",
        "queue",
        "queue_ptr",
    }
)
"""Layers after the features: classifiers, projections, predictors, prototypes and queues.
`projetion` is how a known BYOL spells it."""

OTHER_BRANCHES = frozenset(
    {
        "backbone_momentum",
        "ema",
        "encoder_k",
        "model_ema",
        "momentum_backbone",
        "momentum_classifier",
        "momentum_encoder",
        "momentum_projector",
        "projection_head_momentum",
        "state_dict_ema",
        "student",
        "target_encoder",
        "target_network",
        "target_network_state_dict",
        "target_projector",
    }
)
"""Second copies of the encoder or of its head: moving averages, or the one that is not evaluated.
DINO evaluates its teacher, and all others what was trained."""

TEXT_TOWER = frozenset(
    {
        "ln_final",
        "logit_bias",
        "logit_scale",
        "positional_embedding",
        "text",
        "text_model",
        "text_projection",
        "token_embedding",
        "transformer",
    }
)
"""The other half of CLIP and SigLIP."""

IMAGE_TOWER = frozenset({"vision_model", "visual", "visual_projection"})
"""The first half, which a text tower leaves out."""

COUNTS = "num_batches_tracked"
"""Last part of the name of a BatchNorm's counter. Converted checkpoints lack them, and an encoder
that is not trained does not read them."""

UNREAD = (COUNTS, "position_ids")
"""Last parts of names that a file may lack or have in addition, such as position ids."""

SOURCES = (
    ("MoCo", r"\bencoder_q\.", ""),
    ("MoCo v3", r"\bbase_encoder\.", ""),
    ("StolenEncoder or BadEncoder", r"(^|\.)f\.(f\.)?$", ""),
    ("BYOL", r"\bonline_(encoder|network)", ""),
    ("DINO", r"\bteacher\b", ""),
    ("lightly", r"\bbackbone\.$", r"(projection|prediction)_head|backbone_momentum"),
    ("SwAV", r"", r"prototypes|projection_head"),
    ("solo-learn", r"\b(backbone|encoder)\.$", r"classifier|momentum_"),
    ("SimSiam", r"\bencoder\.$", r"predictor"),
    ("SimCLR or Cont-Steal", r"\bencoder\.$", r"projector|linear|encoder\.fc"),
    ("a classifier", r"", r"(.*\.)?(fc|heads?|classifier|linear)\."),
)
"""(program, pattern of the prefix of the encoder's names, pattern of a name that is left out).

An empty pattern fits everything. The first entry that fits is taken. The user sees the program's
name; it also decides the stem of a small ResNet.
"""

SOLO_STEM = "cont_steal"
"""solo-learn pads the 3x3 stem of its small ResNets by 2, as Cont-Steal does."""


def clean(name: str) -> str:
    """Return a name without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def source_of(begin: str, left_out: Sequence[str]) -> str:
    """Return which program probably wrote a checkpoint.

    Args:
        begin: place and beginning of the encoder's names, such as `teacher.backbone.`.
        left_out: cleaned names that are no part of the encoder.
    """
    for source, beginning, other in SOURCES:
        if not re.search(beginning, begin):
            continue
        if not other or any(re.match(other, name) for name in left_out):
            return source
    return "weights alone"
