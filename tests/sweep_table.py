"""Reads the table that a sweep prints."""


def rows(out: str) -> list[dict[str, str]]:
    """The rows of the table: for each job, a dictionary from column names to cells."""
    lines = out.splitlines()
    start = next(index for index, line in enumerate(lines) if " status " in line)
    stop = next(index for index, line in enumerate(lines) if index > start and line[0] == "└")
    cells = [
        [cell.strip() for cell in line.split(line[0])[1:-1]]
        for line in [lines[start], *lines[start + 2 : stop]]
    ]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
