"""Engines in processes of their own: server, client, and weights over shared memory."""
