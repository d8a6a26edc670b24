"""Where `package:relative/path` leads."""

from pathlib import Path

import pytest

import mmalign
from mmalign.errors import UserError
from mmalign.locations import locate


def test_a_path_inside_an_installed_package() -> None:
    assert Path(locate("mmalign:data/sources.py")) == Path(mmalign.__file__).parent / "data" / "sources.py"


def test_the_home_folder() -> None:
    assert locate("~/models") == str(Path.home() / "models")


@pytest.mark.parametrize("path", ["models/sd", "./a:b/c", "owner/name", "/abs/path", "C:/models", "https://x.org/a"])
def test_everything_else_comes_back_as_it_is(path: str) -> None:
    assert locate(path) == path


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(UserError, match="pip install no-such-thing"):
        locate("no_such_thing.assets:sd")


def test_a_package_without_the_path() -> None:
    with pytest.raises(UserError, match="holds no assets/sd"):
        locate("mmalign:assets/sd")
