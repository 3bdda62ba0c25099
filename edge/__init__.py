"""edge: a self-hosted Server-Sent Events hub that never drops an event silently."""

__version__ = "0.2.0"
