"""Every setting of a run, of `eval.py` and of an audit: its type, range, unit and meaning.

docs/settings.md is made of this table. A node with a `_target_` that a user may replace is `Built`:
its constructor is the schema of what is below it, and `stealing.settings.constructors` checks it.
This module imports neither torch nor Hydra.
"""

from stealing.numbers import GREATEST, MOST, SIDE
from stealing.settings.foreign import FOREIGN
from stealing.settings.kinds import (
    Built,
    Choice,
    Free,
    Integer,
    Names,
    Number,
    Setting,
    Several,
    Switch,
    Text,
)

STEPS = ("pretrain", "query", "steal", "evaluate")

STARTS = ("own", "target")
"""Initial weights of the surrogate: its own, or those that the target started with."""

SELECTIONS = ("random", "k_centre", "herding")
"""Ways to choose the images that are sent; see `stealing.attacks.choosing`."""

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Lightning has more; these keep weights and stored features in float32."""

ROLES = ("own", "query_domain", "unseen")
"""Relations of a task's images to the target."""

SEED = Integer(0, 2**63 - 1)
COUNT = Integer(1, MOST)
ANY_COUNT = Integer(0, MOST)
THREADS = Integer(1, 4096)
WIDTH = Integer(1, 2**14)
POSITIVE = Number(0, GREATEST, above=True)
AMOUNT = Number(0, GREATEST)
SHARE = Number(0, 1)
INNER_SHARE = Number(0, 1, above=True, below=True)
LATER = Built(later=True)


GROUPS = {
    "data": "Images: what the target learns, what may be sent as queries, the tasks.",
    "arch": "Network of the surrogate; `arch@target_arch`: of a target that is trained here.",
    "pretrain": "Recipe of a target that is trained here.",
    "target": "Encoder that is attacked: trained here, in a file, or behind a service.",
    "defense": "What happens to the answers: one defense, or a list such as [unit,topk].",
    "budget": "How many queries may be sent.",
    "plan": "Query plan of the attacker.",
    "attack": "How the attacker trains the surrogate.",
    "control": "What the attack is compared with.",
    "controls": "Encoders judged beside the surrogate, such as [independent,distilled].",
    "probe": "Protocol of the evaluation.",
    "trainer": "Device, precision and processes.",
    "logger": "Where curves are copied to.",
    "callbacks": "Lightning callbacks of every fit: one, or several, such as [learning_rate,mine].",
    "experiment": "A named combination of choices and settings.",
}
"""Groups of options in `conf/`; an override `group=option` chooses one."""

TARGET = (
    Setting(
        "target.path", Text(), "File of a saved encoder, with its card beside it.", nullable=True
    ),
    Setting("target.seed", SEED, "Seed of a target that is trained here.", nullable=True),
    Setting("target.remote", Built(), "Client of a service, or recorded answers.", nullable=True),
    *FOREIGN,
)

TRUST = Setting("trust", Several(Text(), 0), "Your own modules, whose classes may be named.")


def _recipe(part: str) -> tuple[Setting, ...]:
    """Return the settings of one recipe of pre-training: the target's or the control's."""
    return (
        Setting(f"{part}.method", LATER, "Class that trains the encoder, such as SimCLR."),
        Setting(f"{part}.views", Built(), "Augmented views of the images.", required=False),
        Setting(f"{part}.optimizer", LATER, "Optimizer."),
        Setting(f"{part}.projection", WIDTH, "Width of the head.", "features", required=False),
        Setting(f"{part}.temperature", POSITIVE, "Temperature of the contrast.", required=False),
        Setting(
            f"{part}.warmup",
            SHARE,
            "Share of the steps with a rising learning rate.",
            required=False,
        ),
        Setting(
            f"{part}.batch_size",
            Integer(2, MOST),
            "Images in a batch, over all processes.",
            "images",
        ),
    )


BASE = (
    TRUST,
    Setting("seed", SEED, "Seed of the query selection, the surrogate and the heads."),
    Setting(
        "start",
        Choice(STARTS),
        "Initial weights of the surrogate; `target` needs known weights.",
    ),
    Setting("selection", Choice(SELECTIONS), "How the images that are sent are chosen."),
    Setting("until", Choice(STEPS), "Last step to run."),
    Setting("plan_only", Switch(), "Print queries, cost and expected time, and stop."),
    Setting("paths.work", Text(), "Folder of all artefacts."),
    Setting("paths.cache", Text(), "Folder of decoded images, features and predictions."),
    Setting("paths.ledger", Text(), "The ledger: a file, or postgresql://user@host/name."),
    Setting("data.root", Text(), "Folder of the data sets.", required=False),
    Setting("data.size", Integer(1, SIDE), "Height and width of all images.", "pixels"),
    Setting(
        "data.pretrain",
        Built(),
        "Images on which a target is trained here.",
        nullable=True,
        required=False,
    ),
    Setting("data.queries", Built(), "Images that the attacker may send."),
    Setting(
        "data.groups",
        Free(),
        "Classes by task and group, for `stealing.data.images.grouped`.",
        required=False,
    ),
    Setting(
        "data.*",
        Free(),
        "A value of your own data file, for interpolation in its other values.",
        required=False,
    ),
    Setting("data.tasks.*.role", Choice(ROLES), "Relation of the task's images to the target."),
    Setting(
        "data.tasks.*.classes",
        Several(Text()),
        "Names of the classes in a zero-shot head, in the order of the labels.",
        required=False,
    ),
    Setting("data.tasks.*.train", Built(), "Labelled images that heads are trained on."),
    Setting("data.tasks.*.test", Built(), "Labelled images that heads are tested on."),
    Setting("arch", Built(), "Network of the surrogate and of the control."),
    Setting("target_arch", Built(), "Network of a target that is trained here."),
    *_recipe("pretrain"),
    Setting("pretrain.epochs", COUNT, "Length of the training.", "epochs"),
    *TARGET,
    Setting(
        "target.authorized",
        Switch(),
        "Whether you own this encoder or have permission to test it.",
        required=False,
    ),
    Setting("defense.*", Built(), "A defense of a local target, under its name."),
    Setting(
        "budget.images",
        Integer(1, MOST),
        "Most queries of a run's attack; each view and each repeat counts.",
        "queries",
    ),
    Setting(
        "budget.evaluation",
        Integer(0, MOST),
        "Most queries of the evaluation; the target with its defense and without count separately.",
        "queries",
    ),
    Setting(
        "budget.images_total",
        Integer(0, MOST),
        "Most queries of the attacks of all runs.",
        "queries",
        nullable=True,
    ),
    Setting(
        "budget.evaluation_total",
        Integer(0, MOST),
        "Most queries of the evaluations of all runs.",
        "queries",
        nullable=True,
    ),
    Setting("budget.price", Number(0, GREATEST), "Price of one query.", "money"),
    Setting(
        "budget.in_doubt",
        Choice(("resend", "forfeit")),
        "What to do with requests in doubt after a crash.",
    ),
    Setting("plan.repeats", COUNT, "Times that the same image is sent.", required=False),
    Setting("plan.near", ANY_COUNT, "Near copies of each image that are sent.", required=False),
    Setting("plan.count", COUNT, "Views sent of each image.", nullable=True, required=False),
    Setting("plan.views", Built(), "Views that are sent, or that make the near copies."),
    Setting("plan.accounts", COUNT, "Accounts that share the images.", required=False),
    Setting("plan.shared", ANY_COUNT, "Images that every account sends.", "images", required=False),
    Setting(
        "plan.rank",
        COUNT,
        "Rank of the matrix that fills in truncated answers.",
        nullable=True,
        required=False,
    ),
    Setting(
        "plan.standardise",
        Switch(),
        "Whether scale, sign and shift of each feature are removed.",
        required=False,
    ),
    Setting("attack.loss", LATER, "Loss between the surrogate's features and the answers."),
    Setting("attack.pairing", Built(), "Which images are paired with which answers."),
    Setting("attack.optimizer", LATER, "Optimizer."),
    Setting("attack.schedule", LATER, "Learning rate over the steps."),
    Setting("attack.ema", INNER_SHARE, "Decay of the average of the weights.", nullable=True),
    Setting("attack.batch_size", COUNT, "Images in a batch, over all processes.", "images"),
    Setting(
        "attack.steps",
        COUNT,
        "Length of the training; null if attack.epochs is set.",
        "steps",
        nullable=True,
    ),
    Setting(
        "attack.epochs",
        COUNT,
        "Length of the training; null if attack.steps is set.",
        "epochs",
        nullable=True,
    ),
    Setting(
        "attack.pool",
        ANY_COUNT,
        "Images that are held and not sent.",
        nullable=True,
        required=False,
    ),
    *_recipe("control"),
    Setting("controls.*", Built(), "An encoder from a file that is judged, too, under its name."),
    Setting(
        "probe.holdout",
        INNER_SHARE,
        "Share of the training split that is held back for choices.",
    ),
    Setting("probe.linear.penalties", Several(AMOUNT), "Grid of L2 penalties of the linear probe."),
    Setting(
        "probe.linear.tolerance",
        POSITIVE,
        "Largest entry of the gradient at which a fit has converged.",
    ),
    Setting("probe.linear.iterations", COUNT, "Most iterations of L-BFGS for one penalty."),
    Setting("probe.neighbours", COUNT, "Neighbours of the kNN head."),
    Setting("probe.temperature", POSITIVE, "Temperature of the kNN head."),
    Setting(
        "probe.mlp.hidden",
        Several(WIDTH),
        "Widths of the hidden layers of the paper's head.",
        required=False,
    ),
    Setting(
        "probe.mlp.dropout", Number(0, 1, below=True), "Probability of its dropout.", required=False
    ),
    Setting("probe.mlp.lr", POSITIVE, "Its learning rate.", required=False),
    Setting("probe.mlp.epochs", COUNT, "Length of its training.", "epochs", required=False),
    Setting("probe.mlp.batch_size", COUNT, "Rows in a batch.", required=False),
    Setting(
        "probe.zero_shot.templates",
        Several(Text()),
        "Prompts of the zero-shot head, with {} in place of the class name.",
        required=False,
    ),
    Setting("probe.resamples", Integer(1, 10**6), "Resamples of each bootstrap interval."),
    Setting("trainer.accelerator", Choice(("cpu", "gpu")), "Kind of device."),
    Setting("trainer.devices", THREADS, "Processes, one for each device.", "processes"),
    Setting("trainer.precision", Choice(PRECISIONS), "Number format of the training."),
    Setting(
        "trainer.accumulate",
        COUNT,
        "Batches in one optimizer step, whose gradients are averaged.",
        "batches",
    ),
    Setting("trainer.clip", POSITIVE, "Largest norm of a gradient.", nullable=True),
    Setting("trainer.compile", Switch(), "Whether torch compiles the networks."),
    Setting("trainer.graph", Switch(), "Whether each step is replayed as one CUDA graph."),
    Setting("trainer.channels_last", Switch(), "Whether tensors are in channels-last order."),
    Setting(
        "trainer.checkpoint_seconds", AMOUNT, "Shortest time between two checkpoints.", "seconds"
    ),
    Setting("trainer.threads", THREADS, "Threads of each process.", "threads"),
    Setting("logger", LATER, "Where curves are copied to besides CSV files."),
    Setting("callbacks.*", Built(), "A Lightning callback of every fit, under its name."),
    Setting(
        "trainer.profiler",
        Choice(("simple", "advanced")),
        "Lightning's profiler.",
        nullable=True,
        required=False,
    ),
)

EVAL = (
    *BASE,
    Setting("run", Text(), "Folder of a run to judge again.", nullable=True),
    Setting("surrogate", Text(), "Folder of a run whose surrogate is judged.", nullable=True),
    Setting(
        "heads",
        Names(),
        "Heads to train: linear, knn, mlp, zero_shot; null for all.",
        nullable=True,
    ),
    Setting("tasks", Names(), "Tasks of the data set to judge on; null for all.", nullable=True),
)

AUDIT = (
    *BASE,
    Setting("audit.queries", ANY_COUNT, "Most images that the audit may send.", "images"),
    Setting(
        "audit.money",
        AMOUNT,
        "Most that they may cost, at budget.price for each.",
        "money",
        nullable=True,
    ),
    Setting("audit.budgets", Several(COUNT), "Budgets of the attacks.", "images"),
    Setting("audit.seeds", Several(SEED), "Seeds of the repetitions of each attack."),
    Setting("audit.attacks", Several(Text()), "Attacks to try: options of the group `attack`."),
    Setting(
        "audit.defenses", Several(Free(), 0), "Defenses to try, each with its strengths and plans."
    ),
    Setting(
        "audit.enough",
        Number(0, 1, above=True),
        "Share recovered from which an attack counts as a success.",
    ),
    Setting("audit.out", Text(), "Folder of the page; null for one in work/audits.", nullable=True),
)
