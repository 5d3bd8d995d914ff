"""The commands of `sbert-ft`, a module each: `add_arguments(parser)` and `run(args)`, which returns the exit code.

A command's module is imported when its command is named, and imports torch and the like inside `run` alone.
"""
