"""Start a service: a composed configuration in, requests answered until a signal stops it."""

import math
import signal
import sys

import uvicorn
from omegaconf import DictConfig

from stealing.artefacts import key
from stealing.config import instantiate_node, to_dict, use_new_paths
from stealing.errors import ConfigError
from stealing.evaluation.features import block_size, encode
from stealing.processor import set_up_processor
from stealing.service.accounts import Books
from stealing.service.app import application
from stealing.service.batching import Batcher
from stealing.service.faults import Abrupt
from stealing.service.protocol import Connections, guarded
from stealing.service.serving import Offer, Service
from stealing.targets.open import is_local, load_local, open_target
from stealing.text import printable
from stealing.training.fit import device_of
from stealing.trust import check_trust

SIGNALS = (signal.SIGTERM, signal.SIGINT)

KEEP_ALIVE_SECONDS = 60
"""Time that a connection without a request stays open."""


def serve(config: DictConfig) -> None:
    """Answer until SIGTERM or Ctrl-C, then finish the requests in flight and close the books.

    Raises:
        ConfigError: the target is not a saved encoder.
        StealingError: the encoder cannot be loaded, or the books cannot be opened.
    """
    set_up_processor(config.threads)
    service = build_service(config)
    for number in SIGNALS:
        # uvicorn raises the signal again when it is done, which by default ends the process
        # before the books are closed
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        _run_server(config, service)
    finally:
        for number in SIGNALS:
            # a second signal must not interrupt the closing of the books
            signal.signal(number, signal.SIG_IGN)
        service.close()


def _run_server(config: DictConfig, service: Service) -> None:
    """Run the server until a signal ends it."""
    if not service.books.all():
        adding = f"python -m stealing.service.accounts --books {config.books} add <name>"
        print(printable(f"There is no account yet: {adding}"))
    app = application(service, config.keep)
    settings = uvicorn.Config(
        Abrupt(app) if service.faults else app,
        host=config.host,
        port=config.port,
        http=guarded(Connections(service.limits, service.count_refusal)),  # type: ignore[arg-type]
        ws="none",  # our limits do not hold for websockets
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(service.limits.patience),
    )
    # bound before the line is printed, because port=0 becomes a free port only here
    socket = settings.bind_socket()
    port = socket.getsockname()[1]
    offer = service.offer
    line = f"{offer.model}, version {offer.version}, on http://{config.host}:{port}"
    print(printable(line), flush=True)
    uvicorn.Server(settings).run(sockets=[socket])


def build_service(config: DictConfig) -> Service:
    """Return the service of a configuration.

    Raises:
        ConfigError: the target is not a saved encoder, or a class is not trusted.
        StealingError: the encoder cannot be loaded, or the books cannot be opened.
    """
    if not is_local(config):
        raise ConfigError(
            "A service offers a saved encoder: choose target=zoo, or target=file target.path=...."
        )
    use_new_paths(config)
    check_trust(to_dict(config))
    local = load_local(config)
    device = device_of(config.accelerator)
    target = open_target(config, local, device=device, keep_features=False)
    # A hash: clients see that the encoder or the defense has changed, and not how.
    version = key(encoder=target.offered.fingerprint, defense=target.offered.defense_fingerprint)
    books = Books(config.books)
    batcher = Batcher(
        lambda images: encode(local.encoder, images),
        target.defense,
        version,
        books,
        most=block_size(local.size, local.size),
        window=config.window,
        queue=config.queue,
        threads=config.threads,
    )
    offer = Offer(config.model, version, local.size)
    faults = instantiate_node(config.faults) if config.faults else None
    return Service(offer, instantiate_node(config.limits), batcher, books, faults)
