"""What the words of a report mean: those of every page, and the names of what can be chosen."""

from collections.abc import Sequence

from stealing.report.runs import Setting
from stealing.training.levelling import LEVEL

WORDS = {
    "encoder": "a network that turns an image into a list of numbers, its features, on which classifiers are built.",
    "target": "the encoder that is offered as a service: an image goes in, its features come out as the answer.",
    "surrogate": "the copy that the attacker trains on the target's answers.",
    "attacker, honest user": "an attacker asks in order to train a surrogate. An honest user of a task asks about the "
    "images of that task and trains a classifier on the answers.",
    "attack": "how the surrogate is trained.",
    "plan": "what the attacker asks, and what the attacker does with the answers before training on them.",
    "query": "one image that the target is asked about. Each query counts, and each may cost money. Queries to attack "
    "are the attacker's. Queries to measure are those of the honest users, by which accuracies are found.",
    "head": "the kind of small classifier that is trained on features: linear, knn (nearest neighbours) or mlp.",
    "task": "labelled images on which the honest users' classifiers are trained and tested. A task is informative if "
    "the target is at least 10 points ahead of the strongest control on a slice of train. Other tasks are left out of "
    "all figures over tasks.",
    "role": "own: the target was trained on images of this data set. query_domain: images of the kind that the "
    "attacker asks about; the target was not trained on them. unseen: a kind of which neither the target nor the "
    "attacker had images. A pooled figure is of the informative tasks of several roles together, so it mixes what the "
    "target was trained on with what it never saw.",
    "TA, SA": "accuracy: the share of test images that a classifier gets right, on the target's and on the "
    "surrogate's features. TA_clean is TA without a defense. One figure for all tasks is their mean.",
    "control, C": "the strongest of several encoders that need no query: raw pixels, the untrained surrogate, and "
    "SimCLR on as many images as the attack asks about. The strongest is chosen on a slice of train; its lead says how "
    "far the next is behind it there.",
    "recovered": "(SA - C) / (TA_clean - C): the share of the encoder's value that the attack got. 0 means that the "
    "answers were worth nothing (below 0: less than the control), 1 that the surrogate is as good as the target. Over "
    "several tasks, the differences are summed above and below.",
    "offered": "(SA - C) / (TA - C): the share of what the service offers. It stands in place of recovered if the "
    "target without its defense is unknown.",
    "honest loss": "TA_clean - TA: how many more of 100 test images the honest users' classifiers get wrong because "
    "of a defense.",
    "defense": "what the owner does to answers or to accounts to spoil an attack.",
    "SA/TA": "the paper's figure of success. Above 1, the surrogate is better than what honest users get under the "
    "defense.",
    "levelled off": "the mean loss of the last tenth of an attack's steps is within "
    f"{100 * LEVEL:.0f} % of that of the tenth before. "
    "An attack is trained to its end if its loss levelled off and it trained for at least as many steps as its preset.",
    "strength": "how strongly a defense acts. It is written below, or behind the defense's name if several were tried: "
    "less is left of an answer with smaller k and fewer decimals, and it is changed more with greater epsilon or sigma "
    "and with smaller beta or cosine.",
    "useful defense": "takes at least 20 percentage points of the encoder's value from the attacker, with an interval "
    "below what is recovered without it, and surely costs honest users at most 1 of 100 test images.",
    "95 % interval": "in brackets: how far the figure moves in 95 of 100 draws of the same number of test images, and "
    "of seeds if there are several (two say little). Other targets or tasks may lie outside.",
    "seed": "the number that all chance of a run depends on: which images are asked about, and how training starts.",
    "protocol": "all that decides how encoders are judged. Figures of two protocols are never mixed.",
    "p": "how often a difference this large would come up by chance if there were none. For all tests together, it is "
    "raised by how many there are (Holm's method).",
}
"""Of every page."""

PLAIN = {
    "zoo": "the small encoder that comes with this package",
    "shapes": "images that this package draws",
    "shapes_unseen": "images that this package draws, of a kind that the encoder did not learn from",
    "stolen_encoder": "train a surrogate to answer each image, and changed views of it that are not asked about, as "
    "the encoder answered the image",
    "stolen_encoder_paper": "the same, by the recipe of the paper's released code",
    "conventional": "train a surrogate to answer each image as the encoder did",
    "unit": "answers are scaled to length 1",
    "topk": "only the k largest numbers of an answer are given, the others are 0",
    "rounding": "the numbers of an answer are rounded to so many decimals",
    "poisoning": "answers, as lists of numbers, are moved by epsilon times their length to where they mislead an "
    "attacker's training most",
    "additive": "answers are moved by epsilon times their length in a random direction",
    "noise": "random numbers of deviation sigma are added to answers",
    "cosine": "answers are turned in a random direction until they have this cosine with the true ones",
    "b4b": "the more different images an account asks about, the more noise it gets",
    "transform": "each account gets its answers scrambled in a way of its own",
    "guard": "accounts that look like an attacker's are slowed, get noise, or are stopped",
    "once": "ask about each image once, from one account",
    "averaging": "ask about near copies of each image too, and average",
    "repeating": "ask about each image several times, and average",
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
    """Return what the plan of an attack does."""
    return PLAIN.get(setting.choices["plan"], setting.choices["plan"])
