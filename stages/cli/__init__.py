"""Parts that all commands share: options, help, progress bars, devices, processes."""
