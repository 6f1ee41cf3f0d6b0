"""What tests put into a store, and ask of it."""


def can(store, *wanted):
    """Whether the store has these; a test that asks says what the store does without them."""
    return all(store.supports(capability) for capability in wanted)


def fill(store, *paths):
    for path in paths:
        store.write(path, path.encode(), overwrite=True)


def names(found):
    return sorted(info.path for info in found)
