"""The agent's own log: one JSON object a line on standard error, with the standard library alone."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """Writes a log record as one JSON object."""

    def __init__(self, node_id: str) -> None:
        """Name the node in every line."""
        super().__init__()
        self._node_id = node_id

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        content = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": "agent",
            "node": self._node_id,
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)


def configure_logging(node_id: str, level: str) -> None:
    """Send all logging to standard error, from this level on; other packages only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(node_id))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("runyard_agent").setLevel(level)
    logging.getLogger("asyncio").addFilter(is_news)


def is_news(record: logging.LogRecord) -> bool:
    """Leave out what the client of the bus sets off whenever a connection with TLS ends."""
    return "eof_received() has no effect" not in record.getMessage()
