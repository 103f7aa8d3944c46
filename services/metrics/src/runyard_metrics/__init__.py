"""The metrics service: telemetry batches in; logs, series and statistics out."""
