"""The commands of `sbert-ft`, one module each: `add_arguments(parser)` and `run(args)`, which returns the exit code.

A command's module is imported when its command is named, and imports torch and other slow packages only inside `run`.
"""
