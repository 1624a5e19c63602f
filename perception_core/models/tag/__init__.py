"""TAG: the monocular multi-task network with its task-adaptive attention generator (Choi et al.)."""
