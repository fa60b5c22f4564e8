"""The device profiles that ship with the project."""

from pathlib import Path

from cost_models import DeviceProfile, DocumentError, UnknownNameError, read_document

_PACKAGE = Path(__file__).resolve().parent


def profiles_folder() -> Path:
    """Return the folder of bundled profiles: the packaged copy, else the checkout's.

    Raises:
        UnknownNameError: neither exists: the installation is damaged.
    """
    packaged = _PACKAGE / "_profiles"
    checkout = _PACKAGE.parent / "profiles"
    if packaged.is_dir():
        return packaged
    if checkout.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        return checkout
    raise UnknownNameError("the bundled profiles are missing; reinstall spartan-planner")


def bundled_profile_names() -> tuple[str, ...]:
    """Names of the bundled profiles."""
    return tuple(sorted(path.stem for path in profiles_folder().glob("*.yaml")))


def load_profile(name: str | Path) -> DeviceProfile:
    """Read a profile: a bundled one by name, or a file by path.

    Raises:
        DocumentError: the file is missing or is not a profile.
    """
    bundled = bundled_profile_names()
    if str(name) in bundled:
        return read_document(profiles_folder() / f"{name}.yaml", DeviceProfile, "profile")
    if not Path(name).exists():
        known = f"bundled are: {', '.join(bundled)}" if bundled else "none is bundled"
        raise DocumentError(
            f"profile {name} does not exist; give the path of a file made by 'profile', or the "
            f"name of a bundled profile ({known})"
        )
    return read_document(Path(name), DeviceProfile, "profile")
