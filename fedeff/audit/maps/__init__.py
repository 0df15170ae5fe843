"""Where an undefended update leaks and what stops it: layer by layer, and over noise."""
