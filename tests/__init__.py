"""The tests mirror the code they hold."""
