"""Who runs the jobs: ledger, launchers, stacks."""
