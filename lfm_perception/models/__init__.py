"""Models by name: what there is (`registry`), what is on this computer (`store`), the way here (`hub`).

Only the command line comes here. The perception node takes the paths of files and never downloads.
"""
