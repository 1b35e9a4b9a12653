"""Language models that see images: their chats, their live policy, and how they are loaded."""
