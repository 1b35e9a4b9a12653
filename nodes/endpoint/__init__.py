"""OpenAI-compatible APIs: the client that asks them, and the policy that they serve as."""
