"""Who runs the loop: the threads of this process, several processes, a cluster."""
