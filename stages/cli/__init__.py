"""What all commands share: options, help, devices, ranks."""
