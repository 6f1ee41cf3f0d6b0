"""What a power cut leaves of a folder: the platter behind ``simulation``'s disk.

What was synced stays. Of the rest the folder keeps a prefix of its changes, each file a prefix of its own, whatever the
others keep; the change after these may be there by half, or as zeros where only the new size was noted.
"""

import os
import pathlib


class File:
    def __init__(self):
        self.synced, self.changes = b"", []

    def content(self, changes):
        data = bytearray(self.synced)
        for offset, part in changes:
            if part is None:
                del data[offset:]
            else:
                data.extend(bytes(max(0, offset - len(data))))
                data[offset : offset + len(part)] = part
        return bytes(data)


class Platter:
    """Is told of every change by ``Disk``, and of every sync."""

    def __init__(self):
        self.names, self.kept, self.changes = {}, {}, []

    def created(self, name):
        if name not in self.names:
            self.names[name] = File()
            self.changes.append((name, self.names[name]))
        return self.names[name]

    def removed(self, name):
        del self.names[name]
        self.changes.append((name, None))

    def synced(self, file):
        if file is None:  # the folder itself
            self.kept, self.changes = dict(self.names), []
        else:
            file.synced, file.changes = file.content(file.changes), []

    def cut(self, folder, rng):
        """The power goes, and comes back: ``folder`` is what it is now."""
        tree = dict(self.kept)
        for name, file in self.changes[: rng.randint(0, len(self.changes))]:
            if file is None:
                tree.pop(name, None)
            else:
                tree[name] = file
        for path in pathlib.Path(folder).iterdir():
            path.unlink()
        for name, file in tree.items():
            file.synced, file.changes = self._left(file, rng), []
            with open(os.path.join(folder, name), "xb") as real:
                real.write(file.synced)
        self.names, self.kept, self.changes = dict(tree), dict(tree), []

    @staticmethod
    def _left(file, rng):
        kept = rng.randint(0, len(file.changes))
        done = file.changes[:kept]
        if kept < len(file.changes):
            offset, part = file.changes[kept]
            if part is not None:
                many = rng.randint(0, len(part))
                done = [*done, (offset, rng.choice((part[:many], bytes(many))))]
        return file.content(done)
