"""What a person uses to bring a source: a draft of its profile, a dry run of its files, and pulls from elsewhere.

Does not belong here: reading files in a run (`landing`).
"""
