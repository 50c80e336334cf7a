"""Every setting of `python -m stealing.service`: its type, range, unit and meaning."""

from stealing.settings.kinds import Built, Choice, Integer, Setting, Text
from stealing.settings.table import AMOUNT, COUNT, POSITIVE, TARGET, THREADS, TRUST

SERVICE_GROUPS = {
    "target": "The encoder that is offered.",
    "defense": "What happens to the answers.",
    "faults": "Failures that are injected, for tests of clients.",
}
"""Groups of options in `conf/` of which the service has one each."""

SERVICE = (
    TRUST,
    *TARGET,
    Setting("defense.*", Built(), "A defense of what leaves the service, under its name."),
    Setting("faults", Built(), "Failures that are injected, for tests of clients.", required=False),
    Setting("model", Text(), "Name of the model in requests."),
    Setting("host", Text(), "Address to listen on."),
    Setting("port", Integer(0, 65535), "Port to listen on; 0 for any free port."),
    Setting("books", Text(), "File of the accounts."),
    Setting("accelerator", Choice(("cpu", "gpu")), "Kind of device."),
    Setting("threads", THREADS, "Threads of a forward pass.", "threads"),
    Setting(
        "window", AMOUNT, "Longest time that a batch with room waits for more requests.", "seconds"
    ),
    Setting("queue", COUNT, "Most images that may wait.", "images"),
    Setting(
        "keep", AMOUNT, "Time for which an answer is stored under its Idempotency-Key.", "seconds"
    ),
    Setting("limits.images", COUNT, "Most images in a request.", "images"),
    Setting("limits.bytes", COUNT, "Most bytes in the body of a request.", "bytes"),
    Setting(
        "limits.bytes_in_all",
        COUNT,
        "Most bytes in the bodies of all requests at the same time.",
        "bytes",
    ),
    Setting(
        "limits.head",
        COUNT,
        "Most bytes in the header of a request; each field counts 32 bytes more.",
        "bytes",
    ),
    Setting("limits.connections", COUNT, "Most connections at the same time.", "connections"),
    Setting(
        "limits.connections_per_address",
        COUNT,
        "Most connections of one address at the same time.",
        "connections",
    ),
    Setting(
        "limits.patience",
        POSITIVE,
        "Time limit for a header, for a body, and for the client to read.",
        "seconds",
    ),
    Setting("limits.parsers", THREADS, "Threads that read and write bodies.", "threads"),
)
