"""Encoders that other programs saved: a family, a name and a file in, an `Encoder` out."""
