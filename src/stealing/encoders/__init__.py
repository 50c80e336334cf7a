"""Encoders: architectures, building from a seed, saving and strict loading."""

from stealing.encoders.encoder import Encoder, build_encoder, load_encoder, save_encoder

__all__ = ["Encoder", "build_encoder", "load_encoder", "save_encoder"]
