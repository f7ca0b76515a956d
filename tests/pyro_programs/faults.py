"""What of today's code refuses a program or fails on it, by program and aspect, with the sentence that is seen.

A test of such a line has to fail; who mends it deletes the line.
"""

FAULTS: dict[tuple[str, str], str] = {}
