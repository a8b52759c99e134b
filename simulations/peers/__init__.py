"""Rival autoscalers behind the same loop, one file each, faithful to how they are shipped."""
