"""Readers: what turns a file of some kind into texts that a store can keep."""

from r3mem.store.readers.base import Document, Reader
from r3mem.store.readers.chat import Chat
from r3mem.store.readers.html import Html
from r3mem.store.readers.kinds import READERS, read, reader_of
from r3mem.store.readers.pdf import Pdf
from r3mem.store.readers.text import Text

__all__ = ["READERS", "Chat", "Document", "Html", "Pdf", "Reader", "Text", "read", "reader_of"]
