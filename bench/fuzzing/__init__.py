"""Coverage-guided fuzzing of the codecs' decoders."""
