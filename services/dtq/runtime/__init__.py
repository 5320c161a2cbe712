"""What every process uses: settings, logs, loops, metrics, probes. No database, no broker."""
