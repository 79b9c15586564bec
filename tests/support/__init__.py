"""What several tests of the kernel share."""
