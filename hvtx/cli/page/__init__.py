"""The plan as one web page, rendered from the plan's document and a diagram of the host. Pure.

Nothing here reads or writes anything but the style sheet beside it. The page has no script and
loads nothing; its own policy forbids both.
"""
