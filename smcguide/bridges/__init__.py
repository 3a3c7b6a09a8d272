"""Bridges to other libraries; each module imports its package late."""
