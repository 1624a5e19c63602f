"""Exit codes of the processes and of the supervisor."""

EXIT_OK = 0
EXIT_FAULT = 1
EXIT_CONFIGURATION = 2
