"""Optional coordination on a smart contract: a client of any deployed version, wallets, chains, the sender."""
