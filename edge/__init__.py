"""edge: a Server-Sent Events hub that loses nothing in silence."""

__version__ = "0.1.0"
