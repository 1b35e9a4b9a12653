"""Act in games with small networks, and train them: their interfaces, their layers, their live policies."""
