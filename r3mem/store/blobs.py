"""Virtual tokens outside the database: files at a URL of fsspec, each under a name that says nothing.

A file is written before the database names it, and removed after the database no longer does. In between its name is in
the table of loose files, so that a crash leaves none behind.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from typing import Any

import fsspec

from r3mem.errors import ConfigError, InputError, StoreError

#: What file systems raise, beside their own.
REFUSED = (OSError, ValueError, RuntimeError)


class BlobPlace:
    """Files at a URL.

    Args:
        url: ``file:///...``, ``memory://...``, ``s3://...`` or a path.
        make: Whether a folder is made where there is none.

    Raises:
        InputError: There is no such kind of place, or nothing may be written there.
        ConfigError: The package for this kind of place is not installed.
    """

    def __init__(self, url: str, make: bool = True) -> None:
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
            if make:
                self._files.makedirs(self._root, exist_ok=True)
        except ImportError as error:
            raise ConfigError(f"blobs {url}: {error}") from error
        except REFUSED as error:
            raise InputError(
                f"blobs {url}: nothing can be kept there ({error}); give a folder or an fsspec URL"
            ) from error
        self.url = str(self._files.unstrip_protocol(self._root))

    @staticmethod
    def new_place() -> str:
        """A name for a file that is to be written."""
        name = uuid.uuid4().hex
        return f"{name[:2]}/{name}.safetensors"

    def write(self, place: str, data: bytes) -> None:
        """Write a file; on a local disk it is there whatever happens next.

        Args:
            place: Its name.
            data: What is in it.

        Raises:
            StoreError: It cannot be written.
        """
        path = self._path(place)
        try:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            with self._files.open(path, "wb") as file:
                file.write(data)
                file.flush()
                with suppress(AttributeError, OSError):
                    os.fsync(file.fileno())
        except REFUSED as error:
            raise StoreError(
                f"{self.url}/{place} cannot be written ({error}): free space, or give the right"
            ) from error

    def has(self, place: str) -> bool:
        """Whether a file is there.

        Args:
            place: Its name.

        Raises:
            InputError: Nobody can say.
        """
        try:
            return bool(self._files.exists(self._path(place)))
        except REFUSED as error:
            raise InputError(f"blobs {self.url} cannot be reached ({error}): check that it is there") from error

    def read(self, place: str) -> bytes:
        """What is in a file.

        Raises:
            StoreError: It cannot be read.
        """
        try:
            data: Any = self._files.cat_file(self._path(place))
        except REFUSED as error:
            raise StoreError(f"{self.url}/{place} cannot be read ({type(error).__name__}): restore it") from error
        return bytes(data)

    def remove(self, place: str) -> bool:
        """Remove a file; whether it is gone.

        Args:
            place: Its name.
        """
        try:
            self._files.rm_file(self._path(place))
        except FileNotFoundError:
            return True
        except REFUSED:
            return False
        return True

    def _path(self, place: str) -> str:
        return f"{self._root}/{place}"
