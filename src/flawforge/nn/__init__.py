"""What two or more methods share: network blocks and losses. Knows nothing of data, methods or disks."""
