"""Settings of a service, from the environment. Prefix RUNYARD_."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """What every service needs; a service adds its own fields in a subclass."""

    model_config = SettingsConfigDict(env_prefix="RUNYARD_", frozen=True, extra="ignore")

    listen: str = "127.0.0.1:0"
    """host:port to serve on; port 0 takes a free one."""
    instance: str = ""
    """A name that health answers to besides the services': who starts a service on a port can tell that it
    is this one that answers there, and not a stranger's."""
    tokens_file: Path
    """JSON file with the hashes of the tokens that callers may use."""
    yard_key_file: Path | None = None
    """The yard's key (0600), for names of persons and secrets. Without it events hold names as they are."""
    database_url: SecretStr = SecretStr("")
    """postgresql://role:password@host:port/database"""
    archive_url: SecretStr = SecretStr("")
    """Where the log's sealed segments are: a folder, or s3+http://KEY:SECRET@host:port/bucket/prefix.
    Empty: none, and reads of detached partitions are refused."""
    nats_url: str = ""
    nats_user: str = ""
    nats_password: SecretStr = SecretStr("")
    log_level: str = Field(default="INFO", pattern=r"(?i)^(DEBUG|INFO|WARNING|ERROR|CRITICAL)$")
    otlp_endpoint: str = ""
    """host:port of an OpenTelemetry collector; empty turns exporting off."""
    stop_grace_seconds: float = Field(default=5.0, ge=0)
    """How long calls in flight may take when the service is told to stop."""
