"""Settings of the artifact service, from the environment. Prefix RUNYARD_."""

from __future__ import annotations

from pydantic import Field, SecretStr

from runyard_servicekit.settings import ServiceSettings


class ArtifactSettings(ServiceSettings):
    """What the artifact service needs beside what every service needs."""

    s3_endpoint: str = Field(pattern=r"^https?://[^/]+/?$")
    """http(s)://host:port of the store, as this service reaches it."""
    s3_public_endpoint: str = ""
    """The same store as agents and clients reach it; empty means the same address."""
    s3_region: str = "us-east-1"
    s3_bucket: str = "artifacts"
    s3_access_key: SecretStr
    s3_secret_key: SecretStr
