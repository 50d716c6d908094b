"""Services that use client-replies, run from the repository."""
