"""The pager of ShareGPT: "2 / 3" before a person's words, where the page had arrows to turn.

2 / 2Write a poem      -> Write a poem         equal numbers are one, whatever follows
3 / 3-Write a poem     -> Write a poem
1 / 3Write a poem      -> Write a poem         others only where the words touch them
1 / 2 cup of flour     stays                   a person's
1 / 10                 stays
"""

import re

_PAGER = re.compile(r"\s*(\d{1,2}) / (\d{1,2})(?![\d.,])(-?)")


def strip(turn: str) -> str:
    """Returns a human turn without the pager before it."""
    found = _PAGER.match(turn)
    if not found or not (rest := turn[found.end() :]).strip():
        return turn
    first, last, dash = found.groups()
    touches = bool(dash) or not rest[0].isspace()
    is_one = first == last or (int(first) < int(last) and touches)
    return rest if is_one and int(last) < 20 else turn
