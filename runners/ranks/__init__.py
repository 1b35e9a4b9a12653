"""The processes of a torchrun job: how they meet, and which of them are there."""
