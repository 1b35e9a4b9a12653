"""Environments that an OpenEnv server plays: one WebSocket session for each episode."""
