"""Where things lie: a folder, a file, a hub id, or `package:relative/path` inside an installed package."""

import re
from importlib.resources import files
from pathlib import Path

from mmalign.errors import UserError

# Two characters at least, so that a Windows drive is no package.
_IN_PACKAGE = re.compile(r"(?P<package>[A-Za-z_][\w.]+):(?P<relative>[^:/][^:]*)")


def locate(path: str) -> str:
    """The place that `path` names. `package:relative/path` becomes the path of what that installed package carries,
    `~` becomes the home folder; everything else (a path, a hub id) comes back as it is.
    """
    match = _IN_PACKAGE.fullmatch(path)
    if match is None:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    package, relative = match["package"], match["relative"]
    try:
        found = Path(str(files(package))) / relative
    except ModuleNotFoundError:
        distribution = package.partition(".")[0].replace("_", "-")
        raise UserError(f"{path}: package '{package}' is not installed: pip install {distribution}") from None
    if not found.exists():
        raise UserError(f"{path}: package '{package}' is installed but holds no {relative}")
    return str(found)
