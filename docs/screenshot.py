"""Draw what a command prints on a terminal as docs/NAME.svg: python docs/screenshot.py NAME COMMAND ...

The picture is made from the real output of a real run, colours included. No font is fetched by whoever looks at it.
"""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 112


def main() -> None:
    """Run the command on a pseudo-terminal, and draw."""
    name, command = sys.argv[1], sys.argv[2:]
    os.environ |= {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    printed = io.BytesIO()

    def keep(handle: int) -> bytes:
        piece = os.read(handle, 65536)
        printed.write(piece)
        return piece

    pty.spawn(command, keep)
    lines = printed.getvalue().decode().replace("\r\n", "\n")
    page = re.sub(r"(\r\x1b\[K[^\r\n]*(?=\r\x1b\[K))|\r\x1b\[K", "", lines)  # a terminal wipes the progress line
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    console.print(Text.from_ansi(f"$ dlvmguard {' '.join(command[1:])}".rstrip()))
    console.print(Text.from_ansi(page))
    drawing = console.export_svg(title="dlvmguard")
    drawing = re.sub(r"@font-face \{.*?\}", "", drawing, flags=re.DOTALL)
    Path(__file__).with_name(f"{name}.svg").write_text(re.sub(r"[ \t]+\n", "\n", drawing), encoding="utf-8")


if __name__ == "__main__":
    main()
