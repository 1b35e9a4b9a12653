"""Write the files that start a job on a cluster: ranks, rendezvous, restarts, data and memory; nothing is run."""
