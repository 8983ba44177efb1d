"""What only the service knows: records of the log, cluster state, ledger, tariff calendar."""
