"""Certificates, node keys, launching and watching SuperLink and SuperNodes."""
