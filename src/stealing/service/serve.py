"""Start a service: a composed configuration in, requests answered until it is told to stop."""

from pathlib import Path

import torch
import uvicorn
from omegaconf import DictConfig

from stealing.artefacts import key
from stealing.config import opened, plain
from stealing.defenses.chain import Chain
from stealing.encoders import load_encoder
from stealing.errors import ConfigError
from stealing.evaluation.features import BLOCK, encode
from stealing.service.accounts import Books
from stealing.service.app import application
from stealing.service.batching import Batcher
from stealing.service.faults import Abrupt
from stealing.service.patience import impatient
from stealing.service.serving import Offer, Service
from stealing.targets.local import fingerprint


def serve(config: DictConfig) -> None:
    """Answer until SIGTERM or Ctrl-C; what is in flight then is answered first.

    Raises:
        ConfigError: the target is no saved encoder.
        StealingError: it cannot be loaded, or the books cannot be opened.
    """
    torch.set_num_threads(config.threads)
    service = built(config)
    if not service.books.all():
        print(f"There is no account yet: python -m stealing.service.accounts --books {config.books} add <name>")
    app = application(service, config.keep)
    settings = uvicorn.Config(
        Abrupt(app) if service.faults else app,
        host=config.host,
        port=config.port,
        http=impatient(config.limits.patience),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=config.connections,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=int(config.limits.patience),
    )
    socket = settings.bind_socket()  # now, so that port=0 is a free one and can be told
    port, offer = socket.getsockname()[1], service.offer
    print(f"{offer.model}, version {offer.version}, on http://{config.host}:{port}", flush=True)
    uvicorn.Server(settings).run(sockets=[socket])
    service.books.close()


def built(config: DictConfig) -> Service:
    """The service of this configuration."""
    if config.target.path is None:
        raise ConfigError("A service offers a saved encoder: choose target=zoo, or target=file target.path=....")
    encoder, card = load_encoder(Path(config.target.path))
    device = "cuda" if config.accelerator == "gpu" else "cpu"
    encoder.requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    defense = Chain(opened(config.defense))
    defense.check(encoder.fingerprint)
    books = Books(config.books)
    named = fingerprint(defense, plain(config.defense))
    version = key(encoder=encoder.fingerprint, defense=named)  # tells that it changed, not how
    batcher = Batcher(
        lambda images: encode(encoder, images), defense, version, books,
        most=BLOCK, window=config.window, queue=config.queue, threads=config.threads,
    )  # fmt: skip
    offer = Offer(config.model, version, int(card["size"]))
    faults = opened(config.faults) if config.faults else None
    return Service(offer, opened(config.limits), batcher, books, faults)
