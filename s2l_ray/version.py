"""The version of s2l-ray, which pyproject.toml reads from here."""

VERSION = "0.1.0"
