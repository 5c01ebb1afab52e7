"""What every process needs: errors and exit codes, environment, home, files, locks, progress."""
