"""Drum patterns of each style."""

from __future__ import annotations

# One character a sixteenth: "x" full, "o" half, "." rest. Each style has several
# patterns; those with twelve characters are for bars of three beats.
PATTERNS: dict[str, tuple[dict[str, str], ...]] = {
    "rock": (
        {
            "kick": "x.......x.x.....",
            "snare": "....x.......x...",
            "hat": "x.o.x.o.x.o.x.o.",
        },
        {
            "kick": "x..x......x..x..",
            "snare": "....x.......x..o",
            "ride": "x.o.x.o.x.o.x.o.",
        },
        {
            "kick": "x.x.....x.x...o.",
            "snare": "....x.......x...",
            "open": "x...x...x...x...",
        },
    ),
    "pop": (
        {
            "kick": "x.....x.x.......",
            "clap": "....x.......x...",
            "hat": "x.x.x.x.x.x.x.x.",
        },
        {
            "kick": "x...x...x...x...",
            "snare": "....x.......x...",
            "shaker": "xoxoxoxoxoxoxoxo",
        },
    ),
    "electronic": (
        {
            "kick": "x...x...x...x...",
            "open": "..x...x...x...x.",
            "clap": "....x.......x...",
        },
        {
            "kick": "x...x...x...x...",
            "hat": "xoxoxoxoxoxoxoxo",
            "rim": "...x..x....x..x.",
        },
        {
            "kick": "x...x...x...x.o.",
            "open": "..x...x...x...x.",
            "hat": "o.oxo.oxo.oxo.ox",
            "tom": ".......x.....x.o",
        },
    ),
    "hiphop": (
        {
            "kick": "x..x......x.....",
            "snare": "....x.......x...",
            "hat": "x.x.x.x.x.x.xxx.",
        },
        {
            "kick": "x......x..x..o..",
            "clap": "........x.......",
            "hat": "x.x.x.xxx.x.xxxx",
        },
        {
            "kick": "x.o....x.x......",
            "snare": "....x..o.o..x...",
            "hat": "xoxoxoxoxoxoxoxo",
            "open": "..............x.",
        },
    ),
    "metal": (
        {
            "kick": "xxxxxxxxxxxxxxxx",
            "snare": "....x.......x...",
            "crash": "x...............",
            "ride": "x...x...x...x...",
        },
        {
            "kick": "x.x.x.x.x.x.x.x.",
            "snare": ".x.x.x.x.x.x.x.x",
            "open": "x...x...x...x...",
        },
        {
            "kick": "x..xx..xx..xx.xx",
            "snare": "........x.......",
            "open": "x...x...x...x...",
            "tom": "............oxox",
        },
    ),
    "jazz": (
        {
            "ride": "x...x.o.x...x.o.",
            "foot": "....x.......x...",
            "brush": "o......o..o....o",
        },
        {
            "ride": "x...x.o.x...x.o.",
            "foot": "....x.......x...",
            "snare": "......o.......o.",
            "kick": "o.........o.....",
        },
    ),
    "funk": (
        {
            "kick": "x.x....o..x..x..",
            "snare": "....x..o.o..x..o",
            "hat": "xoxoxoxoxoxoxoxo",
        },
        {
            "kick": "x..x..x...x.....",
            "snare": "....x..o.o.ox...",
            "hat": "x.x.x.xxx.x.x.x.",
            "open": "..........x.....",
        },
    ),
    "folk": (
        {
            "kick": "x.......x.......",
            "shaker": "x.o.x.o.x.o.x.o.",
            "rim": "....x.......x...",
        },
        {"kick": "x.....o.x.....o.", "tambourine": "....x.......x..."},
    ),
    "ambient": (
        {
            "kick": "x...............",
            "shaker": "..o...o...o...o.",
            "rim": "......o......o..",
        },
    ),
    "classical": ({"timpani": "x.......o.......", "crash": "x..............."},),
    "waltz": (
        {"kick": "x...........", "brush": "....x...x...", "ride": "x...x..o.x.."},
        {
            "kick": "x...........",
            "shaker": "....x...x...",
            "tambourine": "....o...x...",
        },
    ),
}
