"""Encoders: architectures, building from a seed, saving and strict loading."""

from stealing.encoders.building import build_encoder
from stealing.encoders.encoder import Encoder
from stealing.encoders.files import load_encoder, save_encoder

__all__ = ["Encoder", "build_encoder", "load_encoder", "save_encoder"]
