"""Write the results of a run as one report page, as Markdown and as a table."""
