"""Is this folder fit for these texts?"""
