"""A whole yard on one machine: real engines, all services and one agent, under one supervisor."""
