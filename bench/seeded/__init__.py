"""Rows that are measured seed by seed: kept on disk, resumed, put on a page with what was asked of them."""
