"""Structured logging through the standard library: silent in process unless the caller configures `logging`.

Key-value pairs travel as `extra` of ordinary records, so an embedding program (the simulator, a notebook) keeps its own
logging; `scheduler.app` renders them as JSON lines or for people.
"""

from __future__ import annotations

import logging
from typing import cast

import structlog
from structlog.stdlib import BoundLogger


def get_logger(name: str) -> BoundLogger:
    """A structlog logger on top of `logging.getLogger(name)`."""
    wrapped = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=BoundLogger,
        cache_logger_on_first_use=True,
    )
    return cast("BoundLogger", wrapped)
