"""Records of committed steps: write them, rebuild outputs from them, read and verify whole runs."""
