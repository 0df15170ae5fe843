"""What a server sees: the messages of a production run that really travelled, made into views."""
