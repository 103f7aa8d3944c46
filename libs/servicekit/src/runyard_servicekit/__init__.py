"""What every service has in common: settings, server, interceptors, health, logs, traces, pages."""
