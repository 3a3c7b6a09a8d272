"""Places for files: looked at before any work is done for what shall be there."""

from pathlib import Path

from smcguide.errors import InvalidInput


def check_place(who: str, path: Path, *, may_be_folder: bool = False) -> None:
    """Raise InvalidInput where no file can be: in a folder that is not there, or on a folder.

    Arguments:
        who: the caller, for the message.
        path: of the file that shall be written.
        may_be_folder: whether a folder of that name is the caller's own affair.
    """
    if path.is_dir() and not may_be_folder:
        raise InvalidInput(
            f"{who}: cannot write {str(path)!r}: it is a folder. Name a file, inside it for instance."
        )
    if not path.parent.is_dir():
        raise InvalidInput(
            f"{who}: cannot write {str(path)!r}: there is no folder {str(path.parent)!r}. Make it first."
        )
