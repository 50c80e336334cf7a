"""What the words of a report mean: those of every page, and the names of what can be chosen."""

from collections.abc import Sequence

from stealing.report.runs import Setting

WORDS = {
    "encoder": "a network that makes a list of numbers, its features, of a picture, on which classifiers are built.",
    "target": "the encoder that is offered: a picture goes in, a list of numbers, its answer, comes out.",
    "surrogate": "the copy that a thief trains on the target's answers.",
    "attack": "how the copy is trained.",
    "plan": "what the thief asks, and does with the answers before training on them.",
    "query": "one picture that the target is asked about; each counts, and each may cost money.",
    "head": "the kind of small classifier that is trained on features: linear, knn (nearest neighbours) or mlp.",
    "task": "labelled pictures on which customers' classifiers are trained and tested. It can tell something of a "
    "theft where the target is well ahead of the controls: by 0.10.",
    "TA, SA": "accuracy, the share of test pictures that a classifier gets right, on the target's and on the "
    "surrogate's features; TA_clean is TA without a defense. One figure for all tasks is their mean.",
    "control, C": "the best accuracy that a thief gets without asking anything: from raw pixels, from the untrained "
    "copy, or from training without answers on as many pictures as a theft of that size asks about.",
    "recovered": "(SA - C) / (TA_clean - C), the share of its worth that a verdict speaks of: 0 means that the answers "
    "were worth nothing (below 0, less than the controls), 1 that the copy is as good as the target. Of all tasks "
    "that can tell together.",
    "offered": "recovered with TA in place of TA_clean: the share of what the service offers, where the target "
    "without its defense is not known.",
    "honest loss": "TA_clean - TA: how many more of 100 test pictures honest customers get wrong by a defense.",
    "defense": "what the owner does to answers or to accounts to spoil a theft.",
    "SA/TA": "the paper's figure of success; above 1, the copy is better than what customers get under the defense.",
    "strength": "how strongly a defense acts, as written below, or behind its name where several were tried: "
    "less is left of an answer with smaller k and fewer decimals, and it is changed more with greater epsilon or sigma "
    "and with smaller beta or cosine.",
    "useful defense": "takes at least 20 percentage points of the encoder's worth from the thief, with an interval "
    "below what is stolen without it, and surely costs honest customers at most 1 of 100 test pictures.",
    "95 % interval": "in brackets: how far the figure moves in 95 of 100 draws of the same number of test images, and "
    "of seeds where there are several (two say little); other targets or tasks may lie elsewhere. That of recovered "
    "leaves out the luck by which the best of several controls looks better than it is.",
    "seed": "the number that all chance of a run hangs on: which pictures are asked about, and how training starts.",
    "protocol": "all that decides how encoders are judged; figures of two protocols are never mixed.",
    "p": "how often a difference this large would come up by chance if there were none; for all tests together, it is "
    "raised by how many there are (Holm's method).",
}
"""Of every page."""

PLAIN = {
    "zoo": "the small encoder that comes with this package",
    "shapes": "pictures that this package draws",
    "shapes_unseen": "pictures that this package draws, of a kind that the encoder did not learn from",
    "stolen_encoder": "train a copy to answer each picture, and changed views of it that are not asked about, as the "
    "encoder answered the picture",
    "stolen_encoder_paper": "the same, by the recipe of the paper's released code",
    "conventional": "train a copy to answer each picture as the encoder did",
    "unit": "answers are scaled to length 1",
    "topk": "only the k largest numbers of an answer are given, the others are 0",
    "rounding": "the numbers of an answer are rounded to so many decimals",
    "poisoning": "answers, as lists of numbers, are moved by epsilon times their length to where they mislead a "
    "thief's training most",
    "additive": "answers are moved by epsilon times their length in a random direction",
    "noise": "random numbers of deviation sigma are added to answers",
    "cosine": "answers are turned in a random direction until they have this cosine with the true ones",
    "b4b": "the more different pictures an account asks about, the more noise it gets",
    "transform": "each account gets its answers scrambled in a way of its own",
    "guard": "accounts that look like a thief's are slowed, get noise, or are stopped",
    "once": "ask about each picture once, from one account",
    "averaging": "ask about near copies of each picture too, and average",
    "repeating": "ask about each picture several times, and average",
    "completion": "guess what was cut off from what other answers have in common",
    "standardising": "bring each number of the answers to one scale, which undoes scrambling",
    "spreading": "ask from many accounts, of each only a little",
    "sybil": "ask from several accounts, and learn to translate between their answers",
}
"""What the names of targets, data, attacks, defenses and plans stand for, in plain words."""

TASKS = {
    "scene_kind": "drawn shapes in a busy, muted scene, told apart by their kind; guessing gets one in eight",
    "scene_texture": "drawn shapes in a busy, muted scene, told apart by their texture; guessing gets one in six",
    "plain_kind": "drawn shapes on a plain ground, told apart by their kind; guessing gets one in eight",
    "plain_texture": "drawn shapes on a plain ground, told apart by their texture; guessing gets one in six",
}
"""What the tasks of this package show."""


def glossary(found: Sequence[Setting]) -> dict[str, str]:
    """What the attacks, defenses with their strengths, plans and tasks of these settings are."""
    options = [setting.choices[kind].split()[0] for kind in ("attack", "defense", "plan") for setting in found]
    names = dict.fromkeys(name for option in options for name in option.split("+"))
    tasks = dict.fromkeys(task for setting in found for task in setting.joined["tasks"] if task in TASKS)
    tried = dict[str, dict[str, None]]()
    for setting in found:
        for name, strength in strengths(setting).items():
            tried.setdefault(name, {})[strength] = None
    here = {name: f" Here: {'; '.join(some)}." for name, some in tried.items()}
    told = {name: f"{PLAIN[name]}.{here.get(name, '')}" for name in names if name in PLAIN}
    return told | {task: f"{TASKS[task]}." for task in tasks}


def strengths(setting: Setting) -> dict[str, str]:
    """Of each defense of a setting that has any, by name, the settings that it had, its secret apart."""
    told = dict[str, str]()
    for name, of in (setting.joined["defense"] or {}).get("settings", {}).items():
        parts = [f"{part}={value}" for part, value in of.items() if part not in ("_target_", "secret")]
        told |= {name: " ".join(parts)} if parts else {}
    return told


def explained(name: str) -> str:
    """A name of `PLAIN`, or several of a chain, with what they stand for."""
    words = [PLAIN[part] for part in name.split()[0].split("+") if part in PLAIN]
    return f"{name} ({'; '.join(words)})" if words else name


def plan_of(setting: Setting) -> str:
    """What the plan of a theft does."""
    return PLAIN.get(setting.choices["plan"], setting.choices["plan"])
