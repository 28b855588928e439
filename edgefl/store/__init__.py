"""Everything on disk, crash-safe: a daemon killed at any instant finds on restart the state before or after a change.

    store.py        Store: the state directory of one daemon; SQLite for records, and what may be in the files
    files.py        BlobFiles: blobs as files, kept for a record, moved out of memory, or still arriving
    partial.py      PartialFile: one blob that is still arriving
    disk_errors.py  what the disk and SQLite say, with the next step

All methods block on the disk: call them on the daemon's disk worker.
"""

from edgefl.store.store import MAX_CONTACTS, Store, StoredApplication, remembered_settings

__all__ = ["MAX_CONTACTS", "Store", "StoredApplication", "remembered_settings"]
